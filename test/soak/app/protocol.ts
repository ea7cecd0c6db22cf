/** What the soak and an instance of the application say to each other over the channel between them. */

export interface InstanceConfig {
  databaseUrl: string;
  adapter: 'express' | 'fastify';
  /** A {@link Leak} of its own, to show that the soak sees it. */
  leak: Leak | undefined;
}

/** Ways for an application to grow. */
export const LEAKS = ['heap', 'timers', 'connections', 'rows'] as const;
export type Leak = (typeof LEAKS)[number];

export interface ReadyMessage {
  port: number;
}

/** How an instance stands, behind a full garbage collection. Memory is in bytes. */
export interface Report {
  heapUsed: number;
  /** Buffers, mostly. */
  external: number;
  rss: number;
  /** Timers, sockets, requests of the system: all that keeps a process running. */
  resources: number;
  pool: { total: number; idle: number; waiting: number };
}

/** Of the instances' sessions in PostgreSQL. */
export const APPLICATION_NAME = 'soak';
export const POOL_SIZE = 8;

/** A key lives so long, and is purged some second later: the table is in balance within the warm-up. */
export const TTL_MS = 5_000;
export const PURGE_INTERVAL_MS = 1_000;
