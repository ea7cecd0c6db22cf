type Transformer = typeof import('class-transformer');

/** Where class-transformer keeps what decorators say, as @nestjs/mapped-types finds it, too. */
const STORAGE = 'class-transformer/cjs/storage.js';
const EXCLUDED = '_excludeMetadatas';
const KEPT = ['_typeMetadatas', '_transformMetadatas', '_exposeMetadatas', EXCLUDED] as const;

type Kept = Record<(typeof KEPT)[number], ReadonlyMap<unknown, unknown> | undefined>;

/** Whether decorators of class-transformer stand on the class of an instance, or on one that it is derived from. */
export type IsDecorated = (instance: object) => boolean;

/**
 * Most classes have none, and their instances need not be looked at any closer. In doubt all have: where a bundle has
 * another copy of the package than this finds, what it finds tells nothing.
 */
export async function decoratedClasses({ Exclude }: Transformer): Promise<IsDecorated> {
  const kept = await import(STORAGE).then(
    ({ defaultMetadataStorage }: { defaultMetadataStorage?: Kept }) => defaultMetadataStorage,
    () => undefined,
  );
  const has = (target: unknown): boolean => KEPT.some((name) => kept?.[name]?.has(target) !== false);
  class Seen {}
  Exclude()(Seen);
  if (kept?.[EXCLUDED]?.has(Seen) !== true || has(class Unseen {})) {
    return () => true;
  }
  return (instance) => {
    for (let at: unknown = instance; at !== null; at = Object.getPrototypeOf(at)) {
      if (Object.hasOwn(at as object, 'constructor') && has((at as object).constructor)) {
        return true;
      }
    }
    return false;
  };
}
