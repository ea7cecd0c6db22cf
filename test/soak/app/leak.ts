import type { Server } from 'node:http';
import type { Pool } from 'pg';
import type { Leak } from './protocol.js';

/** Bytes a request: what a forgotten closure with a request's headers and key comes to. */
const LEAKED_BYTES = 2_000;

const LEAKED_TIMER_MS = 3_600_000;

/** One connection never given back for as many requests. */
const REQUESTS_A_CONNECTION = 400;

/** Makes the application grow with its requests. Rows are left by a purge that does not run. */
export function spring(leak: Leak | undefined, pool: Pool, server: Server): void {
  const kept: unknown[] = [];
  let requests = 0;
  server.on('request', () => {
    requests++;
    if (leak === 'heap') {
      kept.push(Array.from({ length: LEAKED_BYTES / 8 }, () => requests));
    }
    if (leak === 'timers') {
      kept.push(setTimeout(() => undefined, LEAKED_TIMER_MS));
    }
    if (leak === 'connections' && requests % REQUESTS_A_CONNECTION === 0 && pool.idleCount > 0) {
      void pool.connect();
    }
  });
}
