import { DEFAULT_OPTIONS } from '../protocol/options.js';
import { ExpiredKeys, type PurgedBatch } from '../postgres/statements/expired-keys.js';
import { print, printJson, type CommandContext } from './command.js';
import { ProgressBar } from './progress-bar.js';
import { placeOfTables } from './schema-of-tables.js';

/** Batch by batch until one is short: each is its own transaction, so that an interrupted purge keeps what it did. */
export async function purge(context: CommandContext): Promise<void> {
  const { dataSource, dryRun, json } = context;
  const { schema, onCitus } = await placeOfTables(context);
  const expiredKeys = new ExpiredKeys(dataSource, schema, onCitus);
  const expired = await expiredKeys.count();
  if (dryRun) {
    return json ? printJson({ expired }) : print(`would delete ${keys(expired)}`);
  }
  const batchSize = context.batchSize ?? DEFAULT_OPTIONS.purge.batchSize;
  const bar = new ProgressBar(process.stderr, expired);
  let deleted = 0;
  let batch: PurgedBatch | undefined;
  try {
    do {
      bar.update(deleted);
      batch = await expiredKeys.purgeBatch(batchSize, batch);
      deleted += batch.deleted;
    } while (batch.deleted >= batchSize);
  } finally {
    bar.clear();
  }
  const { locked } = batch;
  if (json) {
    return printJson({ deleted, locked });
  }
  print(`deleted ${keys(deleted)}`);
  if (locked) {
    print('stopped there: another purge is at work');
  }
}

function keys(count: number): string {
  return `${count} expired ${count === 1 ? 'key' : 'keys'}`;
}
