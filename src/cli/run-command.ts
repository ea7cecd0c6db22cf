import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { readArguments } from './arguments.js';
import { print, type Command } from './command.js';
import { connect } from './connect.js';
import { HELP } from './help.js';
import { migrationRevert } from './migration-revert.js';
import { migrationRun } from './migration-run.js';
import { migrationShow } from './migration-show.js';
import { migrationSql } from './migration-sql.js';
import { purge } from './purge.js';
import { UsageError } from './usage-error.js';

const COMMANDS = new Map<string, Command>([
  ['migration:run', migrationRun],
  ['migration:revert', migrationRevert],
  ['migration:show', migrationShow],
  ['migration:sql', migrationSql],
  ['purge', purge],
]);

/** Does what the command line asks for. Everything that is wrong with it is found before anything is connected to. */
export async function runCommand(argv: string[]): Promise<void> {
  const args = readArguments(argv);
  if (args.help) {
    return print(HELP);
  }
  if (args.version) {
    return print(version());
  }

  const command = COMMANDS.get(args.command ?? '');
  if (command === undefined) {
    const problem = args.command === undefined ? 'No command.' : 'Unknown command.';
    throw new UsageError(`${problem} There are: ${[...COMMANDS.keys()].join(', ')}.`);
  }
  if (args.batchSize !== undefined && command !== purge) {
    throw new UsageError('--batch-size is an option of purge alone.');
  }

  const dataSource = await connect(args);
  try {
    await command({ dataSource, schema: args.schema, batchSize: args.batchSize });
  } finally {
    await dataSource.destroy();
  }
}

/** Of the nearest package.json that has one: the one in dist only tells Node.js that what is there is CommonJS. */
function version(folder = dirname(realpathSync(process.argv[1]!))): string {
  const file = join(folder, 'package.json');
  const found = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { version?: string }) : {};
  return found.version ?? version(dirname(folder));
}
