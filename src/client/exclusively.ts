/** As much of Web Locks as is needed. */
export interface Locks {
  request<T>(name: string, options: { steal?: boolean }, work: () => T | Promise<T>): Promise<T>;
  query(): Promise<{ held: { name: string }[] }>;
}

const queues = new Map<string, Promise<unknown>>();

/** One after the other by name: in this page or process, and among all tabs by their locks. */
export function exclusively<T>(name: string, locks: Locks | undefined, work: () => Promise<T>): Promise<T> {
  const turn = async (): Promise<T> => locks?.request(name, {}, work) ?? work();
  const mine: Promise<T> = (queues.get(name) ?? Promise.resolve())
    .then(turn, turn)
    .finally(() => queues.get(name) === mine && queues.delete(name));
  queues.set(name, mine);
  return mine;
}
