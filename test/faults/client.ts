import { type ClientRequest, request as httpRequest } from 'node:http';
import type { Decision } from './app/protocol.js';
import type { Answer, KeyHistory, Purpose } from './history.js';
import type { Instance } from './instance.js';
import { routeOf } from './routes.js';

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
  const path = `/${routeOf(history.route).lease === true ? 'lease' : 'pay'}/${history.route}`;
  const headers = { 'Idempotency-Key': `"${history.key}"`, 'X-Attempt': String(attempt) };
  try {
    exchange.answer = await post(instance, path, { amount, failures: history.failures }, headers, abortAfterMs);
  } catch (error) {
    exchange.unknown = (error as Error).message;
  }
  exchange.answeredAt = performance.now();
  return exchange.answer;
}

/** Has an operator decide what becomes of the key; whether that took place, its next answer tells. */
export async function decide(instance: Instance, history: KeyHistory, decision: Decision): Promise<void> {
  history.decisions.push({ decision, sentAt: performance.now() });
  await post(instance, `/operator/${decision}`, { key: history.key }).catch(() => undefined);
}

function post(
  { agent, port }: Instance,
  path: string,
  content: object,
  headers: Record<string, string> = {},
  abortAfterMs?: number,
): Promise<Answer> {
  const body = Buffer.from(JSON.stringify(content));
  const request = httpRequest({
    agent,
    host: '127.0.0.1',
    port,
    method: 'POST',
    path,
    headers: { 'Content-Type': 'application/json', 'Content-Length': body.length, ...headers },
  });
  return receive(request, body, abortAfterMs);
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
