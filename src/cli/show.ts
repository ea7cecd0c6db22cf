import type { HeaderLine } from '../protocol/response.js';
import { OperatorStore, type ShownKey } from '../postgres/statements/operator-store.js';
import { type CommandContext, EXIT, print, printJson } from './command.js';
import { schemaOfTables } from './schema-of-tables.js';
import { printable, printTable, whenOf } from './table.js';

export async function show(context: CommandContext): Promise<number> {
  const { dataSource, json, body } = context;
  const [scope, key] = context.operands as [string, string];
  const found = await new OperatorStore(dataSource, await schemaOfTables(context)).show({ scope, key }, body);
  if (found === undefined) {
    if (json) {
      printJson(null);
    } else {
      print('there is no such key');
    }
    return EXIT.notThere;
  }
  if (json) {
    printJson({ ...found, body: found.body?.toString('base64') ?? null });
  } else {
    printKey(found);
  }
  return EXIT.done;
}

function printKey(key: ShownKey): void {
  const { attention, body, steps } = key;
  for (const [name, value] of factsOf(key)) {
    print(`${`${name}:`.padEnd(13)}${printable(value)}`);
  }
  if (attention !== null) {
    print(`attention:   ${printable(`${attention.reason} (${attention.steps.join(', ')}): ${attention.detail}`)}`);
  }
  if (steps.length > 0) {
    print('');
    printTable(
      ['STEP', 'POSITION', 'ATTEMPT', 'ENDED', 'AT'],
      steps.map(({ name, position, attempt, ended, at }) => [name, position, attempt, ended, whenOf(at)]),
    );
  }
  if (body !== null) {
    printMessage(key.headers ?? [], body);
  }
}

function factsOf(key: ShownKey): [name: string, value: string | number][] {
  const { attempt, leaseExpiresAt, status } = key;
  const facts: [string, string | number | undefined][] = [
    ['scope', key.scope],
    ['key', key.key],
    ['state', key.expired ? `${key.state}, expired` : key.state],
    ['request', `${key.method} ${key.path}`],
    ['began', whenOf(key.createdAt)],
    ['expires', whenOf(key.expiresAt)],
    ['attempt', attempt ?? undefined],
    ['lease until', leaseExpiresAt === null ? undefined : whenOf(leaseExpiresAt)],
    ['status', status ?? undefined],
    ['body', status === null ? undefined : `${key.bytes} bytes${key.bodyKept ? '' : ', not kept'}`],
  ];
  return facts.filter((fact): fact is [string, string | number] => fact[1] !== undefined);
}

function printMessage(headers: readonly HeaderLine[], body: Buffer): void {
  print('');
  for (const [name, value] of headers) {
    print(printable(value === null ? `(without ${name})` : `${name}: ${value}`));
  }
  print(`\n${body.toString()}`);
}
