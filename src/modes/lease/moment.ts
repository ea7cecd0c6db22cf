/**
 * A moment by both of this process' clocks. The monotonic one stands still while the machine is suspended, and the other
 * is set at times: of the two, the one that says later is believed.
 */
export interface Moment {
  readonly monotonicMs: number;
  readonly wallMs: number;
}

export function now(): Moment {
  return { monotonicMs: performance.now(), wallMs: Date.now() };
}

export function elapsedMs(since: Moment): number {
  const { monotonicMs, wallMs } = now();
  return Math.max(monotonicMs - since.monotonicMs, wallMs - since.wallMs);
}
