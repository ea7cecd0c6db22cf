/** Calls when the time is over or the signal is aborted, unless it is stopped before. */
function after(ms: number, signal: AbortSignal, end: () => void): () => void {
  const timer = setTimeout(end, ms);
  signal.addEventListener('abort', end);
  return () => {
    clearTimeout(timer);
    signal.removeEventListener('abort', end);
  };
}

/** Work that is aborted when the time is over, or by the signal. */
export async function within<T>(
  ms: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const own = new AbortController();
  const stop = after(ms, signal, () => own.abort(signal.reason));
  try {
    return await work(own.signal);
  } finally {
    stop();
  }
}

/** Of a browser: that its network is back. */
interface Online {
  addEventListener?(event: 'online', listener: () => void): void;
  removeEventListener?(event: 'online', listener: () => void): void;
}

/** Ends early when the signal is aborted, or a browser is back online. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  const platform = globalThis as Online;
  return new Promise((resolve) => {
    const end = () => {
      stop();
      platform.removeEventListener?.('online', end);
      resolve();
    };
    const stop = after(signal.aborted ? 0 : ms, signal, end);
    platform.addEventListener?.('online', end);
  });
}
