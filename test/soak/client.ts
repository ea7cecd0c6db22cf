import { request as httpRequest } from 'node:http';
import { buffer } from 'node:stream/consumers';
import type { Instance } from './instance.js';

/** Longer than any answer may take: the library gives a claim up after 5 s. */
const CLIENT_TIMEOUT_MS = 15_000;

export interface Send {
  route: string;
  /** Without one the request carries none. */
  key: string | undefined;
  body: object;
  attempt?: number;
  /** The client goes away after this long. */
  abortAfterMs?: number;
}

export interface Answer {
  status: number;
  replayed: boolean;
  contentType: string | undefined;
  body: Buffer;
}

/** One request; `undefined` where the client went away before the answer. */
export async function send(instance: Instance, given: Send): Promise<Answer | undefined> {
  const { route, key, attempt = 1, abortAfterMs } = given;
  const body = Buffer.from(JSON.stringify(given.body));
  const limit = AbortSignal.timeout(abortAfterMs ?? CLIENT_TIMEOUT_MS);
  const request = httpRequest({
    agent: instance.agent,
    host: '127.0.0.1',
    port: instance.port,
    method: 'POST',
    path: `/soak/${route}`,
    signal: limit,
    headers: {
      'Content-Type': 'application/json',
      'Content-Length': body.length,
      'X-Attempt': String(attempt),
      ...(key === undefined ? {} : { 'Idempotency-Key': key }),
    },
  });
  try {
    return await new Promise<Answer>((resolve, reject) => {
      request.once('error', reject);
      request.once('response', (response) => {
        const { headers, statusCode } = response;
        buffer(response).then(
          (content) =>
            resolve({
              status: statusCode!,
              replayed: headers['idempotency-replayed'] === 'true',
              contentType: headers['content-type'],
              body: content,
            }),
          reject,
        );
      });
      request.end(body);
    });
  } catch (error) {
    if (abortAfterMs !== undefined && limit.aborted) {
      return undefined;
    }
    // The server closed a connection that had been idle just as it was used: what an idempotency key is for.
    if (request.reusedSocket && (error as NodeJS.ErrnoException).code === 'ECONNRESET') {
      return send(instance, given);
    }
    throw error;
  }
}
