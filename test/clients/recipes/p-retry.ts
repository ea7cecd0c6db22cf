import { setTimeout as delay } from 'node:timers/promises';
import pRetry, { AbortError } from 'p-retry';
import type { Recipe } from './recipe.js';

async function attempt(url: string, init: RequestInit) {
  const { status, headers, body } = await exchange(url, init).catch((cause: unknown) => {
    throw new Error('No answer', { cause }); // p-retry gives up at any TypeError that it does not know
  });
  if (status < 400) return { status, body };
  const retryAfter = headers.get('Retry-After');
  const isTransient = retryAfter !== null || [408, 425, 429].includes(status) || status >= 500;
  if (!isTransient) throw new AbortError(`${status} ${body}`);
  await delay(Number(retryAfter ?? 0) * 1_000); // nor does it know Retry-After
  throw new Error(`Answered with ${status}`);
}

async function exchange(url: string, init: RequestInit) {
  const response = await fetch(url, { ...init, signal: AbortSignal.timeout(15_000) });
  return { status: response.status, headers: response.headers, body: await response.text() };
}

export const pay: Recipe = async (url, payment, key) => {
  const init = {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
    body: JSON.stringify(payment),
  };
  const { status, body } = await pRetry(() => attempt(url, init), { retries: 5, minTimeout: 200, randomize: true });
  return { status, body: JSON.parse(body) };
};
