import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg, { Client, type ClientConfig, Pool, type PoolConfig } from 'pg';
import { IdempotencyModule } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});

afterAll(() => database.drop());

/** Answers queries, but has no protocol of its own to be seen: what pg-native's client is to those who use it. */
class ClientLikeNative extends Client {
  constructor(config: ClientConfig) {
    super(config);
    return new Proxy(this, {
      get: (client, name) => {
        const value: unknown = name === 'connection' ? undefined : Reflect.get(client, name, client);
        return typeof value === 'function' ? value.bind(client) : value;
      },
    });
  }
}

class PoolOfNative extends Pool {
  constructor(options: PoolConfig) {
    super(Object.assign(options, { Client: ClientLikeNative }));
  }
}

async function boot(driver: object): Promise<void> {
  const module = await Test.createTestingModule({
    imports: [
      TypeOrmModule.forRoot({ type: 'postgres', url: database.url, driver, retryAttempts: 0 }),
      IdempotencyModule.forRoot({ scope: () => '' }),
    ],
  }).compile();
  try {
    await module.init();
  } finally {
    await module.close();
  }
}

describe('a DataSource at boot', () => {
  it('is refused with clients that do not speak the protocol by themselves, as those of pg-native', async () => {
    await expect(boot({ ...pg, Pool: PoolOfNative })).rejects.toThrow(
      /TypeORM uses pg-native wherever it is installed: uninstall it, or give the DataSource .*driver: \{ \.\.\.pg \}/,
    );
  });

  it('is taken with the driver that the message tells of', async () => {
    await expect(boot({ ...pg })).resolves.toBeUndefined();
  });
});
