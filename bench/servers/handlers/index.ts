import type { VariantApp } from '../variant-app.js';

/** Loaded one by one: a package that does not load must not take the others with it. */
const APPS: Record<string, () => Promise<VariantApp>> = {
  plain: async () => (await import('./plain.js')).app,
  transaction: async () => (await import('./transaction.js')).app,
  floor: async () => (await import('./floor.js')).app,
  'floor-als': async () => (await import('./floor.js')).withAsyncLocalStorage,
  library: async () => (await import('./library.js')).app,
  select: async () => (await import('./select.js')).app,
  'node-idempotency-memory': async () => (await import('./node-idempotency.js')).onMemory(),
  'node-idempotency-redis': async () => (await import('./node-idempotency.js')).onRedis(),
  'backendkit-memory': async () => (await import('./backendkit.js')).onMemory,
  'backendkit-postgres': async () => (await import('./backendkit.js')).onPostgres,
  'express-idempotency': async () => (await import('./express-idempotency.js')).app,
  handwritten: async () => (await import('./handwritten.js')).app,
};

export async function loadApp(id: string): Promise<VariantApp> {
  const load = APPS[id];
  if (load === undefined) {
    throw new Error(`There is no variant "${id}".`);
  }
  return load();
}
