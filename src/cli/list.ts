import { KEY_STATES, type KeyState, type ListedKey, OperatorStore } from '../postgres/statements/operator-store.js';
import { type KeyIdentity } from '../protocol/stored-key.js';
import type { CommandOptions } from './arguments.js';
import { type CommandContext, printJson, printProgress } from './command.js';
import { schemaOfTables } from './schema-of-tables.js';
import { printTable, whenOf } from './table.js';
import { UsageError } from './usage-error.js';

const PAGE = 50;

export async function list(context: CommandContext): Promise<void> {
  const { dataSource, method, path, scope, expired, json, limit = PAGE } = context;
  const filter = { state: stateOf(context.state), method, path, scope, expired, after: placeOf(context.after), limit };
  const keys = await new OperatorStore(dataSource, await schemaOfTables(context)).list(filter);
  const next = keys.length < limit ? undefined : pageAfter(keys.at(-1)!);
  if (json) {
    return printJson({ keys, next: next ?? null });
  }
  printTable(
    ['SCOPE', 'KEY', 'STATE', 'REQUEST', 'STATUS', 'BYTES', 'ATTEMPT', 'BEGAN', 'EXPIRES'],
    keys.map((key) => [
      key.scope,
      key.key,
      key.expired ? `${key.state}, expired` : key.state,
      `${key.method} ${key.path}`,
      key.status,
      key.bytes,
      key.attempt,
      whenOf(key.createdAt),
      whenOf(key.expiresAt),
    ]),
  );
  if (next !== undefined) {
    printProgress(`there may be more: --after ${next}`);
  }
}

/** @throws UsageError */
export function assertFilter({ state, after }: CommandOptions): void {
  stateOf(state);
  placeOf(after);
}

function stateOf(text: string | undefined): KeyState | undefined {
  const state = KEY_STATES.find((each) => each === text);
  if (text !== undefined && state === undefined) {
    throw new UsageError(`--state must be one of ${KEY_STATES.join(', ')}.`);
  }
  return state;
}

function pageAfter({ scope, key }: ListedKey): string {
  return Buffer.from(JSON.stringify([scope, key])).toString('base64url');
}

function placeOf(after: string | undefined): KeyIdentity | undefined {
  if (after === undefined) {
    return undefined;
  }
  try {
    const [scope, key] = JSON.parse(Buffer.from(after, 'base64url').toString()) as [string, string];
    return { scope: String(scope), key: String(key) };
  } catch (cause) {
    throw new UsageError('--after takes what the page before has said.', { cause });
  }
}
