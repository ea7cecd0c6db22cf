import { callingCopyOf, described, type Installed, loadedCopiesOf, OWN_PACKAGE, ownCopyOf } from './util/installed.js';

/** Where a class of this library says which copy of the library it is of, to other copies. */
export const COPY = Symbol.for('nestjs-idempotency: copy');

const HOW_TO_MEND =
  'Have one copy: ask for the same version in every package.json of the repository, and look at "npm ls NAME" (or "pnpm why NAME").';

/** For when NestJS has nothing of what it gives everybody: it is another NestJS, with classes of its own. Called by it. */
export function otherNestJs(): string {
  return twoCopies('@nestjs/core', [
    [callingCopyOf('@nestjs/core'), 'runs the application'],
    [ownCopyOf('@nestjs/core'), 'is what nestjs-idempotency gets'],
  ]);
}

/** Why there may be no DataSource where there is one; nothing where that is not it. */
export function otherTypeOrm(): string | undefined {
  for (const name of ['typeorm', '@nestjs/typeorm']) {
    const own = ownCopyOf(name);
    const other = loadedCopiesOf(name).find(({ directory }) => directory !== own?.directory);
    if (other !== undefined) {
      return twoCopies(name, [
        [other, 'is what the application gets'],
        [own, 'is what nestjs-idempotency gets'],
      ]);
    }
  }
  return undefined;
}

/** The other copy's, of an interceptor that a decorator of another copy of this library has attached. */
export function otherLibrary(interceptors: readonly unknown[], own: object): string | undefined {
  const copies = interceptors
    .filter((interceptor) => interceptor !== own)
    .map((interceptor) => (interceptor as { [COPY]?: { package: Installed | undefined } })[COPY]);
  const other = copies.find((copy) => copy !== undefined);
  return (
    other &&
    twoCopies('nestjs-idempotency', [
      [other.package, 'has decorated it'],
      [OWN_PACKAGE, 'is that of IdempotencyModule'],
    ])
  );
}

function twoCopies(name: string, copies: readonly [copy: Installed | undefined, what: string][]): string {
  const found = copies.map(([copy, what]) => `${described(copy)}, which ${what}`).join(', and ');
  return `there are two copies of ${name}: ${found}. ${HOW_TO_MEND.replaceAll('NAME', name)}`;
}
