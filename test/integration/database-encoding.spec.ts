import { randomUUID } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { idempotencyMigrations } from '../../migrations/index.js';
import { databaseUrl } from '../support/database.js';
import { queryOn } from '../support/empty-database.js';
import { createTestApp } from '../support/test-app.js';

describe('a database that cannot hold every character', () => {
  it('is refused at boot, with what it is and what it must be', async () => {
    const server = process.env['TEST_DATABASE_URL']!;
    const name = `idempotency_latin1_${randomUUID().replaceAll('-', '')}`;
    const [version] = await queryOn<{ number: string }>(server, 'select current_setting($1) as number', [
      'server_version_num',
    ]);
    const provider = Number(version!.number) < 150_000 ? '' : 'locale_provider libc'; // the only one before 15
    await queryOn(server, `create database ${name} encoding 'LATIN1' ${provider} locale 'C' template template0`);
    const url = databaseUrl(server, name);
    try {
      const migrated = await new DataSource({ type: 'postgres', url, migrations: idempotencyMigrations }).initialize();
      await migrated.runMigrations();
      await migrated.destroy();
      await expect(createTestApp({ adapter: 'express', databaseUrl: url })).rejects.toThrow(
        /keeps its text in LATIN1.* create database … encoding 'UTF8' template template0/,
      );
    } finally {
      await queryOn(server, `drop database ${name} with (force)`);
    }
  });
});
