import { describe, expect, it } from '@jest/globals';
import { createTestDatabase } from '../support/database.js';
import { queriesOn } from '../support/empty-database.js';
import { HAND_MADE, partitionByHand } from '../support/hand-made-partitions.js';
import { turnTablesInto } from '../support/table-kinds.js';
import { ADAPTERS, createTestApp } from '../support/test-app.js';
import { EffectsController, itIsIdempotentOver } from './table-kinds.js';

describe.each(HAND_MADE)('idempotency over tables split by hand: %s', (kind) => {
  describe.each(ADAPTERS)('%s', (adapter) => {
    itIsIdempotentOver((url) => partitionByHand(kind, url), adapter);
  });
});

/** The pairs that table-kinds.spec.ts has left out, so that it takes half of the time. */
describe.each([
  ['8 HASH partitions', 'fastify'],
  ['an INHERITS child', 'express'],
] as const)('idempotency over %s', (kind, adapter) => {
  itIsIdempotentOver((url) => turnTablesInto(kind, url), adapter);
});

describe.each(ADAPTERS)('a key without a partition: %s', (adapter) => {
  it('is refused without effect, in both modes, until there is one', async () => {
    const database = await createTestDatabase();
    await partitionByHand('LIST of scopes', database.url);
    await queriesOn(database.url, [`drop table "keys of ''; no one", "keys: the rest"`]);
    const test = await createTestApp({ adapter, databaseUrl: database.url, controllers: [EffectsController] });
    try {
      for (const path of ['/effects/a', '/leases/a']) {
        const refused = await test.post(path, path);
        expect([refused.status, refused.body.toString()]).toEqual([503, expect.stringContaining('store-unavailable')]);
        expect(test.logs.splice(0).join()).toContain('no partition of relation "idempotency_keys"');
      }
      expect(await test.effects()).toEqual([]);
      await queriesOn(database.url, [`create table keys_rest partition of idempotency_keys default`]);
      for (const path of ['/effects/a', '/leases/a']) {
        expect((await test.post(path, path)).status).toBe(201);
      }
    } finally {
      await test.close();
      await database.drop();
    }
  });
});
