/** Properties that were replaced on a class, and by how many users. */
interface Replacement {
  users: number;
  readonly properties: PropertyDescriptorMap;
  readonly originals: [key: PropertyKey, original: PropertyDescriptor | undefined][];
}

const replaced = new WeakMap<object, Replacement>();

/**
 * Replaces properties of a prototype, once for all who ask for it. The first one's are put in; what is answered takes
 * them out again when its last user does.
 */
export function replaceOnce(prototype: object, properties: () => PropertyDescriptorMap): () => void {
  const replacement = replaced.get(prototype) ?? replace(prototype, properties());
  replacement.users++;
  let inUse = true;
  return () => {
    if (inUse) {
      inUse = false;
      replacement.users--;
      restore(prototype, replacement);
    }
  };
}

function replace(prototype: object, properties: PropertyDescriptorMap): Replacement {
  const originals = Reflect.ownKeys(properties).map((key): Replacement['originals'][number] => [
    key,
    Object.getOwnPropertyDescriptor(prototype, key),
  ]);
  Object.defineProperties(prototype, properties);
  const replacement = { users: 0, properties, originals };
  replaced.set(prototype, replacement);
  return replacement;
}

/** Where a tracer has wrapped them meanwhile they stay, and pass everything on: its wrapper would lose what it wraps. */
function restore(prototype: object, { users, properties, originals }: Replacement): void {
  const isWrapped = originals.some(([key]) => {
    const now = Object.getOwnPropertyDescriptor(prototype, key);
    return now?.value !== properties[key]!.value || now?.set !== properties[key]!.set;
  });
  if (users > 0 || isWrapped) {
    return;
  }
  for (const [key, original] of originals) {
    if (original === undefined) {
      Reflect.deleteProperty(prototype, key);
    } else {
      Object.defineProperty(prototype, key, original);
    }
  }
  replaced.delete(prototype);
}

/** The prototype furthest up that has a method of this name: the class that others are derived from. */
export function baseClassOf(object: object, method: string): object {
  let base = object;
  for (let at: object | null = object; at !== null; at = Object.getPrototypeOf(at) as object | null) {
    if (Object.hasOwn(at, method)) {
      base = at;
    }
  }
  return base;
}
