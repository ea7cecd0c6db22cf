import { AsyncLocalStorage } from 'node:async_hooks';

const storages: AsyncLocalStorage<unknown>[] = [];

/** One for the life of the process, by which code is known to run on a request's behalf. */
export function requestStorage<T>(): AsyncLocalStorage<T> {
  const storage = new AsyncLocalStorage<T>();
  storages.push(storage as AsyncLocalStorage<unknown>);
  return storage;
}

/** Runs `work` on no request's behalf, for what it makes to serve others. */
export function onNobodysBehalf<T>(work: () => T): T {
  return storages.reduce<() => T>((inner, storage) => () => storage.exit(inner), work)();
}
