import autocannon, { type Client } from 'autocannon';
import { quantile } from './statistics.js';

/** Where the idempotency keys of a run come from. */
export interface KeySource {
  next(): string;
}

const RUN = Math.random().toString(36).slice(2, 10).padEnd(8, '0');
/** All keys have one length, so that each request is the same template with other bytes in one place. */
const KEY_LENGTH = 24;
let sequence = 0;

function keyOf(name: string, number: number): string {
  return `${name}-${number.toString(36)}`.padEnd(KEY_LENGTH, '.');
}

/** Every key once: first requests. */
export const uniqueKeys: KeySource = { next: () => keyOf(RUN, sequence++) };

/** `count` keys in turn: once through they are first requests, after that replays. */
export function cycledKeys(count: number): KeySource {
  const name = `${RUN}-${(sequence++).toString(36)}`;
  let turn = 0;
  return { next: () => keyOf(name, turn++ % count) };
}

export interface LoadOptions {
  url: string;
  connections: number;
  body: string;
  keys: KeySource;
  status: number;
  /** Either how long, or how many. */
  seconds?: number;
  requests?: number;
}

export interface LoadResult {
  requests: number;
  perSecond: number;
  p50: number;
  p99: number;
}

/** Requests one after another on each connection, as fast as they are answered. */
export async function load(options: LoadOptions): Promise<LoadResult> {
  const { connections, body, seconds, requests, status } = options;
  const latencies: number[] = [];
  const unexpected = new Map<number, number>();
  let last = 0;
  const began = performance.now();

  await new Promise<void>((resolve, reject) => {
    const run = autocannon(
      {
        url: options.url,
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': keyOf('', 0) },
        body,
        connections,
        timeout: 30,
        sampleInt: 20,
        skipAggregateResult: true,
        setupClient: (client) => useKeys(client, options.keys),
        // Ended by this function's own clock: autocannon's has a resolution of its sampling.
        ...(requests === undefined ? { duration: 3600 } : { amount: requests }),
      },
      (error) => (error === null ? resolve() : reject(error)),
    );
    const timer = seconds === undefined ? undefined : setTimeout(() => run.stop(), seconds * 1000);
    run.on('response', (_client: Client, code: number, _bytes: number, milliseconds: number) => {
      last = performance.now();
      latencies.push(milliseconds);
      if (code !== status) {
        unexpected.set(code, (unexpected.get(code) ?? 0) + 1);
      }
    });
    run.on('reqError', (error: Error) => {
      clearTimeout(timer);
      run.stop();
      reject(new Error(`${options.url}: ${error.message}`));
    });
  });

  if (unexpected.size > 0) {
    const counts = [...unexpected].map(([code, count]) => `${count} × ${code}`).join(', ');
    throw new Error(`${options.url}: expected ${status} ${latencies.length} times, but got ${counts}`);
  }
  if (latencies.length === 0) {
    throw new Error(`${options.url}: no answer within ${seconds} s`);
  }
  return {
    requests: latencies.length,
    perSecond: (latencies.length * 1000) / (last - began),
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

/**
 * A new key in the bytes of the request that is sent next. autocannon's `idReplacement` and `setupRequest` build
 * every request anew, which takes the load generator several times as long.
 */
function useKeys(client: Client, keys: KeySource): void {
  const template = Buffer.from(client.getRequestBuffer());
  const offset = template.indexOf(keyOf('', 0));
  client.getRequestBuffer = () => {
    template.write(keys.next(), offset, 'latin1'); // its last use has been answered
    return template;
  };
}
