import { once } from 'node:events';
import { startPostgres } from '../support/postgres-server.js';
import { createPaymentsApp } from './app.js';
import { readEnvironment } from './environment.js';
import { tour } from './tour.js';

async function main(): Promise<void> {
  const { adapter, port, databaseUrl, dataDir } = readEnvironment(process.env);
  // From the start, so that a signal that comes while the database starts also stops it.
  const signal = Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')]);

  const database = databaseUrl ? undefined : await startPostgres({ dataDir, persistent: true });
  try {
    const app = await createPaymentsApp({ adapter, databaseUrl: databaseUrl ?? database!.url });
    try {
      await app.listen(port, '127.0.0.1');
      const url = await app.getUrl();
      console.log(`ready ${url}\n\n${tour(url)}`);
      await signal;
    } finally {
      await app.close();
    }
  } finally {
    await database?.stop();
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
