import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Arguments, readArguments } from './arguments.js';
import { type CommandDefinition, EXIT, print } from './command.js';
import { connect } from './connect.js';
import { doctor } from './doctor.js';
import { HELP } from './help.js';
import { assertAgreed, assertResponse, forget, release, resolve } from './key-commands.js';
import { assertFilter, list } from './list.js';
import { migrationRevert } from './migration-revert.js';
import { migrationRun } from './migration-run.js';
import { migrationShow } from './migration-show.js';
import { migrationSql } from './migration-sql.js';
import { purge } from './purge.js';
import { show } from './show.js';
import { stats } from './stats.js';
import { UsageError } from './usage-error.js';

const KEY = ['scope', 'key'] as const;

const COMMANDS = new Map<string, CommandDefinition>([
  ['migration:run', { run: migrationRun, options: ['json'] }],
  ['migration:revert', { run: migrationRevert, options: ['json'] }],
  ['migration:show', { run: migrationShow, options: ['json'] }],
  ['migration:sql', { run: migrationSql, options: ['json', 'partitions'] }],
  ['stats', { run: stats, options: ['json', 'limit'] }],
  [
    'list',
    {
      run: list,
      options: ['json', 'state', 'method', 'path', 'scope', 'expired', 'after', 'limit'],
      check: assertFilter,
    },
  ],
  ['show', { run: show, operands: KEY, options: ['json', 'body'] }],
  ['forget', { run: forget, operands: KEY, options: ['json', 'yes'], check: assertAgreed }],
  ['release', { run: release, operands: KEY, options: ['json', 'yes'], check: assertAgreed }],
  ['resolve', { run: resolve, operands: KEY, options: ['json', 'yes', 'status', 'response'], check: assertResponse }],
  ['purge', { run: purge, options: ['json', 'batch-size', 'dry-run'] }],
  ['doctor', { run: doctor, options: ['json', 'pool-size', 'instances'] }],
]);

/** Of every command. */
const COMMON = ['url', 'data-source', 'schema', 'help', 'version'];

/** Does what the command line asks for, and answers the exit code. */
export async function runCommand(argv: string[]): Promise<number> {
  const { args, command } = readCommand(argv);
  if (command === undefined) {
    print(args.help ? HELP : version());
    return EXIT.done;
  }
  const dataSource = await connect(args);
  try {
    return (await command.run({ ...args, dataSource })) ?? EXIT.done;
  } finally {
    await dataSource.destroy();
  }
}

/**
 * Without a command where only help or version is asked for.
 *
 * @throws UsageError for everything that is wrong with it, before anything is connected to
 */
export function readCommand(argv: string[]): { args: Arguments; command: CommandDefinition | undefined } {
  const args = readArguments(argv);
  if (args.help || args.version) {
    return { args, command: undefined };
  }
  const command = COMMANDS.get(args.command ?? '');
  if (command === undefined) {
    const problem = args.command === undefined ? 'No command.' : 'Unknown command.';
    throw new UsageError(`${problem} There are: ${[...COMMANDS.keys()].join(', ')}.`);
  }
  check(args, command);
  return { args, command };
}

/** No operand is repeated in a message: it may be an URL that lost its --url, password and all. */
function check(args: Arguments, { operands: wanted = [], options = [], check: checkValues }: CommandDefinition): void {
  const { command, operands, given } = args;
  if (operands.length > wanted.length) {
    throw new UsageError('One command at a time, and every option by its name.');
  }
  if (operands.length < wanted.length) {
    throw new UsageError(
      `${command} takes ${wanted.map((name) => `<${name}>`).join(' ')}; '' is the scope that all share.`,
    );
  }
  const stray = given.find((name) => !COMMON.includes(name) && !options.includes(name));
  if (stray !== undefined) {
    const takers = [...COMMANDS].filter(([, other]) => other.options?.includes(stray)).map(([name]) => name);
    throw new UsageError(`--${stray} is an option of ${takers.join(', ')} alone.`);
  }
  checkValues?.(args);
}

/** Of the nearest package.json that has one: the one in dist only tells Node.js that what is there is CommonJS. */
function version(folder = dirname(realpathSync(process.argv[1]!))): string {
  const file = join(folder, 'package.json');
  const found = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { version?: string }) : {};
  return found.version ?? version(dirname(folder));
}
