import { parseArgs } from 'node:util';
import { isSchemaName, SCHEMA_NAME } from '../postgres/table-name.js';
import { UsageError } from './usage-error.js';

/** A batch is one transaction. Past this it would hold its row locks for seconds. */
const MAX_BATCH_SIZE = 100_000;

export interface Arguments {
  readonly command: string | undefined;
  readonly url: string | undefined;
  readonly dataSource: string | undefined;
  readonly schema: string | undefined;
  readonly batchSize: number | undefined;
  readonly help: boolean;
  readonly version: boolean;
}

export function readArguments(argv: string[]): Arguments {
  const { values, positionals } = parse(argv);
  // Neither is repeated in the message: it may be an URL that lost its --url, password and all.
  if (positionals.length > 1) {
    throw new UsageError('One command at a time, and every option by its name.');
  }
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
  return {
    command: positionals[0],
    url: values.url,
    dataSource: values['data-source'],
    schema: values.schema,
    batchSize: batchSize(values['batch-size']),
    help: values.help === true,
    version: values.version === true,
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
        'batch-size': { type: 'string' },
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean', short: 'v' },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), { cause: error });
  }
}

function batchSize(text: string | undefined): number | undefined {
  if (text === undefined) {
    return undefined;
  }
  const size = Number(text);
  if (!/^\d+$/.test(text) || size < 1 || size > MAX_BATCH_SIZE) {
    throw new UsageError(`--batch-size must be a whole number from 1 to ${MAX_BATCH_SIZE}.`);
  }
  return size;
}
