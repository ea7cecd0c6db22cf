import { fileURLToPath } from 'node:url';
import type { Adapter } from './app.js';

export interface Environment {
  adapter: Adapter;
  port: number;
  /** A PostgreSQL server of your own. Without it the example starts one. */
  databaseUrl: string | undefined;
  /** A verification provider to use. Without it the example starts a fake one. */
  providerUrl: string | undefined;
  /** Of one address to one route. */
  requestsPerMinute: number;
  /** Where the example's own server keeps its data. */
  dataDir: string;
}

export function readEnvironment(env: NodeJS.ProcessEnv): Environment {
  const { ADAPTER = 'express', PORT = '3000', RATE_LIMIT = '600', DATABASE_URL, PROVIDER_URL, DATA_DIR } = env;
  if (ADAPTER !== 'express' && ADAPTER !== 'fastify') throw new Error('ADAPTER must be "express" or "fastify".');
  if (!/^\d+$/.test(PORT) || Number(PORT) > 65_535) throw new Error('PORT must be 0 (any free port) to 65535.');
  if (!/^[1-9]\d*$/.test(RATE_LIMIT)) throw new Error('RATE_LIMIT must be a number of requests a minute.');
  return {
    adapter: ADAPTER,
    port: Number(PORT),
    databaseUrl: DATABASE_URL || undefined,
    providerUrl: PROVIDER_URL || undefined,
    requestsPerMinute: Number(RATE_LIMIT),
    dataDir: DATA_DIR || fileURLToPath(new URL('../../.data/postgres', import.meta.url)),
  };
}
