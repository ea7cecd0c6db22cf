import { OperatorStore } from '../postgres/statements/operator-store.js';
import { type CommandContext, print, printJson } from './command.js';
import { placeOfTables } from './schema-of-tables.js';
import { durationOf, printTable, sizeOf } from './table.js';

/** Routes and scopes that are told, those with the most keys. */
const TOP = 10;

export async function stats(context: CommandContext): Promise<void> {
  const { dataSource, json, limit = TOP } = context;
  const { schema, onCitus } = await placeOfTables(context);
  const found = await new OperatorStore(dataSource, schema, onCitus).statistics(limit);
  if (json) {
    return printJson(found);
  }
  const { states, ages, routes, scopes, disk } = found;
  printTable(
    ['WHAT', 'VALUE'],
    [
      ['keys', found.rows],
      ...Object.entries(states).map(([state, keys]) => [state, keys]),
      ['expired, to be purged', found.expired],
      ['purge lag', durationOf(found.purgeLagSeconds)],
      ['oldest in flight', durationOf(found.oldestInFlightSeconds)],
      ['keys on disk', sizeOf(disk.keysBytes)],
      ['indexes on disk', sizeOf(disk.indexesBytes)],
      ['steps on disk', sizeOf(disk.stepsBytes)],
      ['dead rows', disk.deadRows],
    ],
  );
  print('');
  printTable(
    ['AGE', 'KEYS'],
    ages.map(({ upToSeconds, keys }) => [upToSeconds === null ? 'older' : `up to ${durationOf(upToSeconds)}`, keys]),
  );
  print('');
  printTable(
    ['ROUTE', 'KEYS'],
    routes.map(({ method, path, keys }) => [`${method} ${path}`, keys]),
  );
  print('');
  printTable(
    ['SCOPE', 'KEYS'],
    scopes.map(({ scope, keys }) => [scope, keys]),
  );
}
