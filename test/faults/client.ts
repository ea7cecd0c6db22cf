import { type ClientRequest, request as httpRequest } from 'node:http';
import type { Answer, KeyHistory, Purpose } from './history.js';
import type { Instance } from './instance.js';

/** Longer than any answer may take: the library gives a claim up after 5 s. */
const CLIENT_TIMEOUT_MS = 12_000;

/** Noted instead of an answer. */
export const CLIENT_WENT_AWAY = 'the client went away';

export interface Send {
  purpose: Purpose;
  attempt: number;
  /** The client goes away after this long. */
  abortAfterMs?: number | undefined;
}

/** Sends the key's request, once, and puts into the history what comes back; `undefined` when that stays unknown. */
export async function send(
  instance: Instance,
  history: KeyHistory,
  { purpose, attempt, abortAfterMs }: Send,
): Promise<Answer | undefined> {
  const exchange = history.begin(purpose, instance.name, attempt);
  const amount = history.amount + (purpose === 'changed payload' ? 1 : 0);
  const body = Buffer.from(JSON.stringify({ amount, failures: history.failures }));
  try {
    exchange.answer = await receive(
      httpRequest({
        agent: instance.agent,
        host: '127.0.0.1',
        port: instance.port,
        method: 'POST',
        path: `/pay/${history.route}`,
        headers: {
          'Content-Type': 'application/json',
          'Content-Length': body.length,
          'Idempotency-Key': `"${history.key}"`,
          'X-Attempt': String(attempt),
        },
      }),
      body,
      abortAfterMs,
    );
  } catch (error) {
    exchange.unknown = (error as Error).message;
  }
  exchange.answeredAt = performance.now();
  return exchange.answer;
}

function receive(request: ClientRequest, body: Buffer, abortAfterMs: number | undefined): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const timeout = setTimeout(() => request.destroy(new Error('the client gave up')), CLIENT_TIMEOUT_MS);
    const abort =
      abortAfterMs === undefined
        ? undefined
        : setTimeout(() => request.destroy(new Error(CLIENT_WENT_AWAY)), abortAfterMs);
    const settle = (how: () => void): void => {
      clearTimeout(timeout);
      clearTimeout(abort);
      how();
    };
    request.once('error', (error) => settle(() => reject(error)));
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', (error) => settle(() => reject(error)));
      response.once('close', () =>
        settle(() => {
          if (!response.complete) {
            reject(new Error('the answer was cut off'));
            return;
          }
          const { headers } = response;
          resolve({
            status: response.statusCode!,
            replayed: headers['idempotency-replayed'] === 'true',
            contentType: headers['content-type'],
            contentLength: headers['content-length'],
            receipt: headers['x-receipt'] as string | undefined,
            body: Buffer.concat(chunks).toString('latin1'),
          });
        }),
      );
    });
    request.end(body);
  });
}
