import { DEFAULT_OPTIONS } from '../protocol/options.js';
import { dataSourceSchema } from '../postgres/data-source-schema.js';
import { KeyStore, type PurgedBatch } from '../postgres/statements/key-store.js';
import { findKeyTables } from '../postgres/statements/key-tables.js';
import { print, type CommandContext } from './command.js';
import { ProgressBar } from './progress-bar.js';

/** Batch by batch until one is short: each is its own transaction, so that an interrupted purge keeps what it did. */
export async function purge({ dataSource, schema, batchSize: given }: CommandContext): Promise<void> {
  const batchSize = given ?? DEFAULT_OPTIONS.purge.batchSize;
  const wanted = schema ?? dataSourceSchema(dataSource);
  // Under the name that the applications know it by, the lock of the purge is one for all.
  const place = (await findKeyTables(dataSource, wanted))?.schema ?? wanted;
  const store = new KeyStore(place);
  const bar = new ProgressBar(process.stderr, await store.countExpired(dataSource));

  let deleted = 0;
  let batch: PurgedBatch | undefined;
  try {
    do {
      bar.update(deleted);
      batch = await store.purgeBatch(dataSource, batchSize, batch);
      deleted += batch.deleted;
    } while (batch.deleted >= batchSize);
  } finally {
    bar.clear();
  }

  print(`deleted ${deleted} expired ${deleted === 1 ? 'key' : 'keys'}`);
  if (batch.locked) {
    print('stopped there: another purge is at work');
  }
}
