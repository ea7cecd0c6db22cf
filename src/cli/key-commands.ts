import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline/promises';
import { DEFAULT_OPTIONS } from '../protocol/options.js';
import { AbandonedKeys } from '../postgres/statements/abandoned-keys.js';
import { StoredKeys } from '../postgres/statements/stored-keys.js';
import type { CommandOptions } from './arguments.js';
import { type CommandContext, EXIT, print, printJson } from './command.js';
import { schemaOfTables } from './schema-of-tables.js';
import { printable } from './table.js';
import { UsageError } from './usage-error.js';

export function forget(context: CommandContext): Promise<number> {
  return change(
    context,
    'forget',
    'A retry then runs its handler again, whatever the first request has done.',
    (place) => new StoredKeys(context.dataSource, place.schema).forget(place),
  );
}

export function release(context: CommandContext): Promise<number> {
  return change(
    context,
    'release',
    'The next retry then runs its handler again, but for the steps that have finished.',
    (place) => new AbandonedKeys(context.dataSource, place.schema).release(place, DEFAULT_OPTIONS.ttlMs),
  );
}

export async function resolve(context: CommandContext): Promise<number> {
  const { status, response = '' } = context;
  const headers: [string, string][] = response === '' ? [] : [['Content-Type', typeOf(response)]];
  const recorded = { status: status!, headers, body: Buffer.from(response) };
  return change(context, 'resolve', 'Every retry then gets this response, and the handler does not run.', (place) =>
    new AbandonedKeys(context.dataSource, place.schema).resolve(place, recorded, DEFAULT_OPTIONS.ttlMs),
  );
}

/** @throws UsageError where nobody has agreed, nor can be asked */
export function assertAgreed({ yes }: CommandOptions): void {
  if (!yes && process.stdin.isTTY !== true) {
    throw new UsageError('Give --yes where nobody can be asked.');
  }
}

/** @throws UsageError */
export function assertResponse(options: CommandOptions): void {
  const { status, response = '' } = options;
  if (status === undefined) {
    throw new UsageError('resolve takes --status <200 to 499>, and --response <text> for the body.');
  }
  if ((status === 204 || status === 205 || status === 304) && response !== '') {
    throw new UsageError(`A response with the status ${status} has no body: leave --response out.`);
  }
  assertAgreed(options);
}

interface Place {
  readonly scope: string;
  readonly key: string;
  /** A fencing token of its own: an attempt that wakes up after all finds the key taken from it. */
  readonly claimId: string;
  readonly schema: string | undefined;
}

async function change(
  context: CommandContext,
  verb: string,
  consequence: string,
  work: (place: Place) => Promise<boolean>,
): Promise<number> {
  const [scope, key] = context.operands as [string, string];
  if (
    !context.yes &&
    !(await confirm(`${verb} the key ${printable(key)} of the scope '${printable(scope)}'? ${consequence}`))
  ) {
    print('nothing was done');
    return EXIT.done;
  }
  const done = await work({ scope, key, claimId: randomUUID(), schema: await schemaOfTables(context) });
  if (context.json) {
    printJson({ done });
  } else {
    print(done ? 'done' : NOT_DONE[verb]!);
  }
  return done ? EXIT.done : EXIT.notThere;
}

const ABANDONED = 'there is no such key that waits, or an attempt at it is running: see show';
const NOT_DONE: Record<string, string> = {
  forget: 'there is no such key',
  release: ABANDONED,
  resolve: ABANDONED,
};

async function confirm(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(?:es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
}

function typeOf(response: string): string {
  try {
    JSON.parse(response);
    return 'application/json; charset=utf-8';
  } catch {
    return 'text/plain; charset=utf-8';
  }
}
