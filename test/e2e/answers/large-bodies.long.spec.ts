import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { programOf } from '../../support/program.js';
import { ADAPTERS } from '../../support/test-app.js';
import { DECODED_BYTES } from './large-bodies.controller.js';

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
  const ask = async (): Promise<{ peakBytes: number; blockedMs: number }> => {
    const answer = once(server, 'message') as Promise<[{ peakBytes: number; blockedMs: number }]>;
    server.send('how much?');
    return (await answer)[0];
  };
  const peakBytes = async (): Promise<number> => (await ask()).peakBytes;

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

  describe('that a replay decodes', () => {
    const post = (path: string, accepted: string) =>
      fetch(`http://127.0.0.1:${port}/${path}`, {
        method: 'POST',
        headers: { 'Idempotency-Key': path, 'Accept-Encoding': accepted },
      });

    it.each(Object.keys(DECODED_BYTES))(
      'from %s is sent whole, blocks nobody for more than 50 ms, and is never in memory as a whole',
      async (coding) => {
        await (await post(`encoded/${coding}`, coding)).body?.cancel();
        const { peakBytes: before } = await ask();
        let leastBlockedMs = Infinity;
        for (let looks = 0; looks < 5 && leastBlockedMs > 50; looks++) {
          const replay = await post(`encoded/${coding}`, 'identity');
          expect(replay.headers.get('Idempotency-Replayed')).toBe('true');
          expect(replay.headers.get('Content-Encoding')).toBeNull();
          let bytes = 0;
          for await (const chunk of replay.body!) {
            bytes += (chunk as Uint8Array).length;
          }
          expect(bytes).toBe(DECODED_BYTES[coding]);
          const { peakBytes: after, blockedMs } = await ask();
          expect(after - before).toBeLessThan(80 * MIB);
          leastBlockedMs = Math.min(leastBlockedMs, blockedMs); // other processes may have had the processor, too
        }
        expect(leastBlockedMs).toBeLessThanOrEqual(50);
      },
    );

    it('is left alone when its client has gone away', async () => {
      await (await post('encoded/gzip', 'gzip')).body?.cancel();
      const { peakBytes: before } = await ask();
      for (let clients = 0; clients < 10; clients++) {
        await (await post('encoded/gzip', 'identity')).body?.cancel();
      }
      expect((await send('written', 'after those', 1000)).status).toBe(201);
      expect((await ask()).peakBytes - before).toBeLessThan(80 * MIB);
    });

    it('and that turns out not to be what its head says, when a part was sent, is broken off', async () => {
      await (await post('encoded-in-part', 'gzip')).body?.cancel();
      const replay = await post('encoded-in-part', 'identity');
      expect(replay.status).toBe(201);
      await expect(replay.arrayBuffer()).rejects.toThrow('terminated');
    });
  });
});
