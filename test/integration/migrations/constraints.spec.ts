import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { queryOn } from '../../support/empty-database.js';

describe('the constraints', () => {
  const VALID = {
    scope: 'alice',
    key: 'key-1',
    fingerprint: randomBytes(32),
    fingerprint_version: 1,
    method: 'POST',
    path: '/payments',
    claim_id: randomUUID(),
    response_status: 201,
    response_headers: '[["content-type", "text/plain"]]',
    response_body: Buffer.from('done'),
    response_bytes: 4,
    created_at: '2026-01-01T00:00:00Z',
    expires_at: '2026-01-02T00:00:00Z',
  };

  async function insert(changes: Partial<Record<keyof typeof VALID, unknown>>): Promise<void> {
    const row = { ...VALID, ...changes };
    const parameters = Object.keys(row).map((_, index) => `$${index + 1}`);
    await queryOn(
      migrated.url,
      `insert into idempotency_keys (${Object.keys(row).join(', ')}) values (${parameters.join(', ')})`,
      Object.values(row),
    );
  }

  let migrated: TestDatabase;

  beforeAll(async () => {
    migrated = await createTestDatabase();
  });

  afterEach(async () => {
    await queryOn(migrated.url, 'truncate idempotency_keys');
  });

  afterAll(() => migrated.drop());

  it.each([
    ['a plain row', {}],
    ['the empty scope, which all callers share', { scope: '' }],
    [
      'scope and key of the greatest length, in the widest characters',
      { scope: '😀'.repeat(255), key: '😀'.repeat(255) },
    ],
    ['an empty body', { response_body: Buffer.alloc(0), response_bytes: 0 }],
    ['a tombstone: a body that was too large to keep', { response_body: null, response_bytes: 5_000_000_000 }],
  ])('take %s', async (_, changes) => {
    await expect(insert(changes)).resolves.toBeUndefined();
  });

  it.each([
    ['an empty key', 'idempotency_keys_key_length', { key: '' }],
    ['a key of 256 characters', 'idempotency_keys_key_length', { key: 'k'.repeat(256) }],
    ['a scope of 256 characters', 'idempotency_keys_scope_length', { scope: 's'.repeat(256) }],
    ['a hash of 31 bytes', 'idempotency_keys_fingerprint_sha256', { fingerprint: randomBytes(31) }],
    ['status 99', 'idempotency_keys_response_status_range', { response_status: 99 }],
    ['status 600', 'idempotency_keys_response_status_range', { response_status: 600 }],
    ['headers that lost their order', 'idempotency_keys_response_headers_array', { response_headers: '{"etag": "1"}' }],
    ['a body of another length than it says', 'idempotency_keys_response_bytes_match', { response_bytes: 5 }],
    [
      'a tombstone of negative length',
      'idempotency_keys_response_bytes_match',
      { response_body: null, response_bytes: -1 },
    ],
    ['a row that is born expired', 'idempotency_keys_expires_after_created', { expires_at: VALID.created_at }],
  ])('refuse %s', async (_, constraint, changes) => {
    await expect(insert(changes)).rejects.toMatchObject({ constraint });
  });

  it('refuse a second row of the same key in the same scope, and of that scope alone', async () => {
    await insert({});
    await expect(insert({})).rejects.toMatchObject({ constraint: 'idempotency_keys_pkey' });
    await expect(insert({ scope: 'bob' })).resolves.toBeUndefined();
  });
});
