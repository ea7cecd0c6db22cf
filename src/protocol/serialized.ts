/**
 * What JSON makes of a value: a step gives this on its first attempt, too, so that no handler depends on whether it
 * was interrupted.
 */
export type Serialized<T> = T extends { toJSON(): infer J }
  ? Serialized<J>
  : T extends string | number | boolean | null | undefined | void
    ? T
    : T extends bigint | symbol | ((...args: never[]) => unknown)
      ? never
      : T extends object
        ? { [K in keyof T as T[K] extends (...args: never[]) => unknown ? never : K]: Serialized<T[K]> }
        : unknown;
