/** What is measured side by side. Each is a process of its own that answers `POST /operations`. */
export interface Variant {
  id: string;
  label: string;
  /** What it does not protect against. */
  caveat: string;
  /** A library that users could choose instead. */
  alternative?: boolean;
}

export const VARIANTS = [
  {
    id: 'plain',
    label: 'plain handler',
    caveat: 'Does nothing in the database and protects against nothing: what NestJS and Express cost.',
  },
  {
    id: 'transaction',
    label: 'plain transaction',
    caveat: 'A retry runs the handler again: its writes are made twice.',
  },
  {
    id: 'floor',
    label: 'floor: transaction + INSERT by hand',
    caveat:
      'Looks nothing up: a retry runs the handler to its end, fails on the primary key (500) and gets no response.',
  },
  {
    id: 'floor-als',
    label: 'floor, beside an AsyncLocalStorage',
    caveat: 'As the floor. What the library cannot do without, the application pays here, too.',
  },
  {
    id: 'library',
    label: 'nestjs-idempotency',
    caveat: 'Side effects outside of the database are not undone by a rollback.',
  },
  {
    id: 'select',
    label: 'one SELECT by primary key',
    caveat: 'Writes nothing: the yardstick for replays.',
  },
  {
    id: 'node-idempotency-memory',
    label: '@node-idempotency/nestjs (memory)',
    caveat: 'A restart or a second process runs the handler again; a crash after COMMIT loses the key.',
    alternative: true,
  },
  {
    id: 'node-idempotency-redis',
    label: '@node-idempotency/nestjs (Redis)',
    caveat:
      'Two commits in two stores: a crash between them leaves the writes made and the key "in progress" until it expires.',
    alternative: true,
  },
  {
    id: 'backendkit-memory',
    label: '@backendkit-labs/idempotency (memory)',
    caveat:
      'A restart or a second process runs the handler again; the same key with another body gets the first answer.',
    alternative: true,
  },
  {
    id: 'backendkit-postgres',
    label: '@backendkit-labs/idempotency (PostgreSQL)',
    caveat:
      'It has no PostgreSQL store, so this one is written against its store interface. Three commits: a crash between them leaves the writes made and the key pending (409); the body is not compared.',
    alternative: true,
  },
  {
    id: 'express-idempotency',
    label: 'express-idempotency (memory)',
    caveat:
      'A restart or a second process runs the handler again; a crash after COMMIT loses the key. Keys are never freed, and each request searches all of them.',
    alternative: true,
  },
  {
    id: 'handwritten',
    label: 'interceptor of blog posts',
    caveat:
      'SELECT, handler, INSERT in separate transactions: two duplicates at the same time both run, and a crash before the INSERT makes the retry run again.',
    alternative: true,
  },
] as const satisfies readonly Variant[];

export type VariantId = (typeof VARIANTS)[number]['id'];

export function variant(id: VariantId): Variant {
  return VARIANTS.find((candidate) => candidate.id === id)!;
}
