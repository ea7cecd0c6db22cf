interface Locks {
  request<T>(name: string, work: () => Promise<T>): Promise<T>;
}

const queues = new Map<string, Promise<unknown>>();

/** Web Locks, where there are. */
export function webLocks(): Locks | undefined {
  return (globalThis as { navigator?: { locks?: Locks } }).navigator?.locks;
}

/** One after the other by name: in this page or process, and among all tabs where there are Web Locks. */
export function exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
  const turn = async (): Promise<T> => webLocks()?.request(name, work) ?? work();
  const mine = (queues.get(name) ?? Promise.resolve()).then(turn, turn);
  queues.set(name, mine);
  const leave = () => void (queues.get(name) === mine && queues.delete(name));
  mine.then(leave, leave);
  return mine;
}
