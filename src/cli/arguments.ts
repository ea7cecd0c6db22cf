import { parseArgs } from 'node:util';
import { PARTITIONS } from '../migrate/partitions.js';
import { isSchemaName, SCHEMA_NAME } from '../postgres/table-name.js';
import { UsageError } from './usage-error.js';

/** A batch is one transaction. Past this it would hold its row locks for seconds. */
const MAX_BATCH_SIZE = 100_000;
const MAX_PAGE = 10_000;

/** What only some commands take. */
export interface CommandOptions {
  readonly batchSize: number | undefined;
  /** 0 is a plain table. */
  readonly partitions: number | undefined;
  readonly dryRun: boolean;
  readonly json: boolean;
  /** Nobody need be asked. */
  readonly yes: boolean;
  readonly body: boolean;
  readonly state: string | undefined;
  readonly method: string | undefined;
  readonly path: string | undefined;
  readonly scope: string | undefined;
  readonly expired: boolean;
  readonly after: string | undefined;
  readonly limit: number | undefined;
  readonly status: number | undefined;
  readonly response: string | undefined;
  readonly poolSize: number | undefined;
  readonly instances: number | undefined;
}

export interface Arguments extends CommandOptions {
  readonly command: string | undefined;
  /** What stands behind the command. */
  readonly operands: readonly string[];
  /** The options that were given, as they are spelt. */
  readonly given: readonly string[];
  readonly url: string | undefined;
  readonly dataSource: string | undefined;
  readonly schema: string | undefined;
  readonly help: boolean;
  readonly version: boolean;
}

export function readArguments(argv: string[]): Arguments {
  const { values, positionals } = parse(argv);
  for (const name of ['url', 'data-source', 'schema'] as const) {
    if (values[name] === '') {
      throw new UsageError(`--${name} is empty.`);
    }
  }
  if (values.schema !== undefined && !isSchemaName(values.schema)) {
    throw new UsageError(`--schema must be ${SCHEMA_NAME}.`);
  }
  if (values.url !== undefined && values['data-source'] !== undefined) {
    throw new UsageError('Give --url or --data-source, not both.');
  }
  const number = (name: 'batch-size' | 'limit' | 'status' | 'pool-size' | 'instances', min: number, max: number) =>
    wholeNumber(name, values[name], min, max);
  return {
    command: positionals[0],
    operands: positionals.slice(1),
    given: Object.keys(values),
    url: values.url,
    dataSource: values['data-source'],
    schema: values.schema,
    help: values.help === true,
    version: values.version === true,
    batchSize: number('batch-size', 1, MAX_BATCH_SIZE),
    partitions: partitions(values.partitions),
    dryRun: values['dry-run'] === true,
    json: values.json === true,
    yes: values.yes === true,
    body: values.body === true,
    state: values.state,
    method: values.method,
    path: values.path,
    scope: values.scope,
    expired: values.expired === true,
    after: values.after,
    limit: number('limit', 1, MAX_PAGE),
    status: number('status', 200, 499),
    response: values.response,
    poolSize: number('pool-size', 1, MAX_BATCH_SIZE),
    instances: number('instances', 1, MAX_BATCH_SIZE),
  };
}

function parse(argv: string[]) {
  try {
    return parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        url: { type: 'string' },
        'data-source': { type: 'string' },
        schema: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean', short: 'v' },
        'batch-size': { type: 'string' },
        partitions: { type: 'string' },
        'dry-run': { type: 'boolean' },
        json: { type: 'boolean' },
        yes: { type: 'boolean', short: 'y' },
        body: { type: 'boolean' },
        state: { type: 'string' },
        method: { type: 'string' },
        path: { type: 'string' },
        scope: { type: 'string' },
        expired: { type: 'boolean' },
        after: { type: 'string' },
        limit: { type: 'string' },
        status: { type: 'string' },
        response: { type: 'string' },
        'pool-size': { type: 'string' },
        instances: { type: 'string' },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), { cause: error });
  }
}

function wholeNumber(name: string, text: string | undefined, min: number, max: number): number | undefined {
  if (text === undefined) {
    return undefined;
  }
  const number = Number(text);
  if (!/^\d+$/.test(text) || number < min || number > max) {
    throw new UsageError(`--${name} must be a whole number from ${min} to ${max}.`);
  }
  return number;
}

function partitions(text: string | undefined): number | undefined {
  if (text === undefined) {
    return undefined;
  }
  const count = Number(text);
  if (!/^\d+$/.test(text) || (count !== 0 && (count < PARTITIONS.least || count > PARTITIONS.most))) {
    throw new UsageError(
      `--partitions must be a whole number from ${PARTITIONS.least} to ${PARTITIONS.most}, or 0 for a plain table.`,
    );
  }
  return count;
}
