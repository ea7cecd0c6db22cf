import { setTimeout as delay } from 'node:timers/promises';

export interface WaitForOptions {
  /** What is waited for, for the message when it does not come: "the lock to be free". */
  what: string;
  /** @default 10000 */
  timeoutMs?: number;
}

/** Short enough that waiting costs a test nothing, long enough to leave the machine to what is waited for. */
const POLL_INTERVAL_MS = 10;

/** Polls until the condition answers with something truthy, and answers with that. An error that it throws ends the wait. */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { what, timeoutMs = 10_000 }: WaitForOptions,
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (performance.now() > deadline) throw new Error(`Waited ${timeoutMs} ms in vain for ${what}.`);
    await delay(POLL_INTERVAL_MS);
  }
}
