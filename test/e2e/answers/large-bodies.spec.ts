import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { programOf } from '../../support/program.js';
import { ADAPTERS } from '../../support/test-app.js';

const MIB = 1024 * 1024;

describe.each(ADAPTERS)('a large body on %s', (adapter) => {
  let database: TestDatabase;
  let server: ChildProcess;
  let port: number;
  let client: Client;

  beforeAll(async () => {
    database = await createTestDatabase();
    server = fork(programOf('test/e2e/answers/large-bodies.process.ts'), [database.url, adapter], { execArgv: [] });
    [{ port }] = (await once(server, 'message')) as [{ port: number }];
    client = new Client(database.url);
    await client.connect();
  });

  afterAll(async () => {
    await client.end();
    const exited = once(server, 'exit');
    server.disconnect();
    await exited;
    await database.drop();
  });

  /** By `fetch`: a body of 100 MiB is more than a client for bytes on the wire should hold. */
  const send = async (path: string, label: string, bytes: number): Promise<{ status: number; body: Buffer }> => {
    const response = await fetch(`http://127.0.0.1:${port}/${path}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': label },
      body: JSON.stringify({ label, bytes }),
    });
    return { status: response.status, body: Buffer.from(await response.arrayBuffer()) };
  };
  const effectsOf = async (label: string): Promise<number> =>
    (await client.query('select 1 from effects where label = $1', [label])).rows.length;
  const peakBytes = async (): Promise<number> => {
    const answer = once(server, 'message') as Promise<[{ peakBytes: number }]>;
    server.send('how much?');
    return (await answer)[0].peakBytes;
  };

  it('that the handler writes and that grows beyond what may be held is refused and rolled back, within bounds', async () => {
    const before = await peakBytes();
    const response = await send('written', 'far too large', 400 * MIB);
    expect(response.status).toBe(500);
    expect(JSON.parse(response.body.toString())).toMatchObject({
      type: 'urn:nestjs-idempotency:transaction-failed',
      detail: expect.stringContaining('maxHeldBytes'),
    });
    expect(await effectsOf('far too large')).toBe(0);
    expect((await peakBytes()) - before).toBeLessThan(200 * MIB);
    expect((await send('written', 'after it', 1000)).status).toBe(201);
  });

  it('that the handler writes is sent whole where it may be held, though it is not kept', async () => {
    const response = await send('written', 'large', 8 * MIB);
    expect([response.status, response.body.length]).toEqual([201, 8 * MIB]);
    expect(await effectsOf('large')).toBe(1);
    expect((await send('written', 'large', 8 * MIB)).status).toBe(409);
  });

  it('that is read from a cursor of the transaction is sent whole', async () => {
    const response = await send('cursor', 'rows', 6_000_000);
    expect([response.status, response.body.length]).toEqual([201, 6_000_000]);
    expect(await effectsOf('rows')).toBe(1);
  });

  it('that is read from a cursor and grows beyond what may be held is refused whole', async () => {
    const response = await send('cursor', 'too many rows', 40_000_000);
    expect(response.status).toBe(500);
    expect(response.body.toString()).toContain('maxHeldBytes');
    expect(await effectsOf('too many rows')).toBe(0);
  });

  it('that the framework streams from what the handler has returned may be as large as it likes', async () => {
    const before = await peakBytes();
    const response = await send('returned', 'streamed', 64 * MIB);
    expect([response.status, response.body.length]).toEqual([201, 64 * MIB]);
    expect((await peakBytes()) - before).toBeLessThan(100 * MIB);
  });
});
