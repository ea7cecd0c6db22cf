import type { Pool, PoolClient } from 'pg';
import { replaceOnce } from './replacing.js';

type ClientMakingPool = Pool & { newClient?: (...given: unknown[]) => unknown };

/** The pool of the primary, where TypeORM's driver keeps one. */
export function poolOf(driver: object): Pool | undefined {
  return (driver as { master?: Pool }).master;
}

/** The same, and those of replicas. */
function poolsOf(driver: object): ClientMakingPool[] {
  const { slaves = [] } = driver as { slaves?: Pool[] };
  return [poolOf(driver), ...slaves].filter((pool) => pool !== undefined);
}

const guarded = new WeakSet<PoolClient>();

/**
 * Between the pool, which takes its `error` listener off a connection at checkout, and TypeORM, which puts its own on a
 * moment later, a connection that dies would end the process by an uncaught exception. Whoever holds it still learns
 * of its death by the next statement.
 */
function keepProcessAlive(client: PoolClient): void {
  if (!guarded.has(client)) {
    guarded.add(client);
    client.on('error', () => undefined);
  }
}

/** Keeps the pools of one DataSource fit for connections that are opened, and die, in requests. */
export class PoolGuard {
  private guarded: Pool | undefined;
  private restore: (() => void)[] = [];

  /** @param onNobodysBehalf runs what makes something for all without the running code's request */
  constructor(private readonly onNobodysBehalf: <T>(work: () => T) => T) {}

  /** A DataSource that is initialised again has another pool. */
  guard(driver: object): void {
    const pool = poolOf(driver);
    if (pool !== this.guarded) {
      this.guarded = pool?.on('acquire', keepProcessAlive);
      this.restore = poolsOf(driver).map((each) => replaceOnce(each, () => this.connecting(each)));
    }
  }

  leave(): void {
    this.guarded?.off('acquire', keepProcessAlive);
    this.restore.forEach((restore) => restore());
  }

  /**
   * A connection keeps the AsyncLocalStorage of whoever had it opened, for its notifications and listeners, and serves
   * everybody. It is opened by whoever asks for one, or gives one back that another waits for.
   */
  private connecting(pool: ClientMakingPool): PropertyDescriptorMap {
    const { newClient } = pool;
    if (newClient === undefined) {
      return {};
    }
    const value = (...given: unknown[]): unknown => this.onNobodysBehalf(() => newClient.apply(pool, given));
    return { newClient: { value, writable: true, configurable: true, enumerable: false } };
  }
}
