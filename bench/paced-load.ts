import { Agent, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { KeySource } from './load.js';

/** So that the end of a run does not have to wait for all that an overloaded machine is behind with. */
const MOST_PENDING = 500;

interface PacedLoadOptions {
  url: string;
  perSecond: number;
  body: string;
  keys: KeySource;
  /** It goes on until this settles. */
  until: Promise<unknown>;
}

/**
 * Requests at even intervals, whether or not those before are answered: traffic that is there anyway. Answers with the
 * latencies in milliseconds, each counted from when its request was due, so that a stall counts for all that it held up.
 */
export async function pacedLoad({ url, perSecond, body, keys, until }: PacedLoadOptions): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  const latencies: number[] = [];
  const pending = new Set<Promise<void>>();
  const failures: unknown[] = [];
  const over = new AbortController();
  const end = (): void => over.abort();
  until.then(end, end);

  const answer = async (due: number, key: string): Promise<void> => {
    try {
      const status = await post(url, agent, body, key);
      if (status !== 201) {
        throw new Error(`${url} answered ${status}`);
      }
      latencies.push(performance.now() - due);
    } catch (error) {
      failures.push(error);
    }
  };

  const began = performance.now();
  for (let number = 0; !over.signal.aborted; number++) {
    const due = began + (number * 1000) / perSecond;
    const wait = due - performance.now();
    if (wait > 0) {
      await delay(wait);
    }
    const sent = answer(due, keys.next());
    if (pending.size >= MOST_PENDING) {
      await Promise.race(pending); // what is due meanwhile goes out late, and is counted as late
    }
    pending.add(sent);
    void sent.then(() => pending.delete(sent));
    if (failures.length > 0) {
      break;
    }
  }
  await Promise.all(pending);
  agent.destroy();
  if (failures.length > 0) {
    throw failures[0];
  }
  return latencies;
}

/** One request. Answers with its status once its response has been read. */
export function post(
  url: string,
  agent: Agent | undefined,
  body: string,
  key: string,
  timeoutMs = 60_000,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'idempotency-key': key,
    };
    const sent = request(url, { method: 'POST', headers, agent, timeout: timeoutMs }, (response) => {
      response.resume();
      response.on('error', reject);
      response.on('end', () => resolve(response.statusCode ?? 0));
    });
    sent.on('error', reject);
    sent.on('timeout', () => sent.destroy(new Error(`${url} did not answer within ${timeoutMs} ms`)));
    sent.end(body);
  });
}
