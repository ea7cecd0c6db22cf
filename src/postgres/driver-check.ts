import type { DataSource } from 'typeorm';

/** Writes the messages of the extended query protocol; only pg's own client has one. */
interface WithProtocol {
  connection?: { parse?: unknown; bind?: unknown; execute?: unknown; sync?: unknown };
}

/**
 * The library sends several statements in one round trip, by the protocol that pg's client in JavaScript speaks.
 *
 * @throws Error where the DataSource has other clients: with pg-native installed TypeORM picks it by itself
 */
export async function assertProtocolClient(dataSource: DataSource): Promise<void> {
  const runner = dataSource.createQueryRunner('master');
  try {
    const { connection } = (await runner.connect()) as WithProtocol;
    const isThere = (['parse', 'bind', 'execute', 'sync'] as const).every(
      (message) => typeof connection?.[message] === 'function',
    );
    if (!isThere) {
      throw new Error(
        "IdempotencyModule: the DataSource's connections are not those of pg's own client, which this module needs. " +
          'TypeORM uses pg-native wherever it is installed: uninstall it, or give the DataSource a driver without it, ' +
          "`driver: { ...pg }` with `import pg from 'pg'`.",
      );
    }
  } finally {
    await runner.release();
  }
}
