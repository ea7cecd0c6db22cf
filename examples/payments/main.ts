import { once } from 'node:events';
import { startPostgres } from '../support/postgres-server.js';
import { createPaymentsApp } from './app.js';
import { readEnvironment } from './environment.js';
import { startFakeProvider } from './provider/fake-provider.js';
import { tour } from './tour.js';

async function main(): Promise<void> {
  const { adapter, port, dataDir, requestsPerMinute, ...given } = readEnvironment(process.env);
  // From the start, so that a signal that comes while the database starts also stops it.
  const signal = Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')]);

  const database = given.databaseUrl ? undefined : await startPostgres({ dataDir, persistent: true });
  const provider = given.providerUrl ? undefined : await startFakeProvider();
  try {
    const databaseUrl = given.databaseUrl ?? database!.url;
    const providerUrl = given.providerUrl ?? provider!.url;
    const app = await createPaymentsApp({ adapter, databaseUrl, providerUrl, requestsPerMinute });
    try {
      await app.listen(port, '127.0.0.1');
      const url = await app.getUrl();
      console.log(
        `ready ${url}\nverification provider ${providerUrl}\n\nOpen ${url} in a browser, or paste these:\n\n${tour(url)}`,
      );
      await signal;
    } finally {
      await app.close();
    }
  } finally {
    await provider?.stop();
    await database?.stop();
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
