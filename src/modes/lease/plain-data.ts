/** In the place of what is looked at by itself. */
export const ELSEWHERE = 'idempotency: elsewhere';

/** An object as its properties. */
export type Data = Record<string, unknown>;

/** What has properties that JSON tells, and class-transformer looks at. */
export function isOpen(node: unknown): node is Data {
  return (
    typeof node === 'object' &&
    node !== null &&
    !(node instanceof Date || node instanceof Map || node instanceof Set || ArrayBuffer.isView(node))
  );
}

export function isPlain(node: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(node);
  return prototype === null || prototype === Object.prototype;
}

export function nameOf(instance: object): string {
  return (instance.constructor as { name?: string } | undefined)?.name ?? 'class instance';
}

/** Defined, not assigned: its class may have a getter of that name. */
export function asInstance(node: object, own: Data): object {
  return Object.create(Object.getPrototypeOf(node) as object, Object.getOwnPropertyDescriptors(own)) as object;
}

export function mapValues(node: Data, map: (value: unknown) => unknown): Data {
  const entries = Object.entries(node).filter(([, value]) => typeof value !== 'function');
  return Object.fromEntries(entries.map(([key, value]) => [key, map(value)]));
}

/** Plain data of a property, with instances left out: each is looked at by itself. */
export function withoutInstances(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(withoutInstances);
  }
  if (!isOpen(value)) {
    return value;
  }
  return isPlain(value) ? mapValues(value, withoutInstances) : ELSEWHERE;
}

export function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
}

export function sorted(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(sorted);
  }
  return isOpen(value)
    ? Object.fromEntries(
        Object.entries(value)
          .toSorted(([one], [other]) => (one < other ? -1 : 1))
          .map(([key, each]) => [key, sorted(each)]),
      )
    : value;
}
