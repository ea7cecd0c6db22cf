import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Idempotent } from '../../../src/index.js';
import { withoutVolatile } from '../../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { kindsController } from './kinds.controller.js';

const decorateNothing: typeof Idempotent = () => () => undefined;

const KINDS: [path: string, status: number, effects: number, body: string | RegExp][] = [
  ['json', 201, 1, '"nested":{"list":[1,2.5,null]}}'],
  ['array', 201, 1, '[{"a":1}]'],
  ['void', 201, 1, /^$/],
  ['no-content', 204, 1, /^$/],
  ['string', 201, 1, 'plain text, not JSON'],
  ['number', 201, 1, '42'],
  ['null', 201, 1, /^(?:null)?$/],
  ['observable', 201, 1, '{"last":true}'],
  ['buffer', 201, 1, '\x00\x01\xff\xfe\n\r\x00'],
  ['stream-of-buffer', 201, 1, '\x00\xff\x01\xfe'],
  ['stream-of-file', 201, 1, /^[^]{200000}$/],
  ['stream-in-pieces', 202, 1, 'one two three'],
  ['res', 202, 1, '{"by":"hand"}'],
  ['res-later', 409, 1, '{"state":"the handler said so itself"}'],
  ['passthrough', 203, 1, '{"ok":true}'],
  ['passthrough-conflict', 409, 1, '{"state":"taken"}'],
  ['redirect', 303, 1, /elsewhere|^$/],
  ['redirect-computed', 307, 1, /computed|^$/],
  ['headers', 201, 1, '{"ok":true}'],
  ['repeated-headers', 201, 1, '{"ok":true}'],
  ['filter', 418, 0, '{"teapot":"short and stout"}'],
  ['stored-error', 402, 0, '{"reason":"no money"}'],
  ['envelope', 201, 1, '{"data":["a","b"],"count":2}'],
  ['class-serializer', 201, 1, '{"id":7}'],
  ['timeout', 201, 1, '{"in":"time"}'],
  ['logging', 201, 1, '{"was":"logged"}'],
  ['everything-around', 201, 1, '{"data":["a"],"count":1}'],
];

describe.each(ADAPTERS)('every kind of response, on %s', (adapter) => {
  let test: TestApp;
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'idempotency-'));
    const file = join(folder, 'a.bin');
    await writeFile(file, Buffer.from(Array.from({ length: 200_000 }, (_, index) => (index * 31) % 256)));
    test = await createTestApp({
      adapter,
      controllers: [kindsController('', Idempotent, file), kindsController('plain', decorateNothing, file)],
    });
  });

  afterAll(async () => {
    await test.close();
    await rm(folder, { recursive: true });
  });

  it.each(KINDS)('replays %s byte for byte, header for header', async (path, status, effects, body) => {
    const before = (await test.effects()).length;
    const first = await test.post(`/${path}`, `key-${path}`);
    expect(first.status).toBe(status);
    expect(first.body.toString('latin1')).toMatch(body);
    expect(first.headerLines).toContain(`Idempotency-Key: key-${path}`);
    expect(first.headerLines).not.toContain('Idempotency-Replayed: true');
    const logged = test.logs.length;

    for (let attempt = 0; attempt < 2; attempt++) {
      const replay = await test.post(`/${path}`, `key-${path}`);
      expect(replay.statusLine).toBe(first.statusLine);
      expect(replay.body.equals(first.body)).toBe(true);
      expect(replay.headerLines).toContain('Idempotency-Replayed: true');
      expect(withoutVolatile(replay.headerLines).filter((line) => line !== 'Idempotency-Replayed: true')).toEqual(
        withoutVolatile(first.headerLines),
      );
    }
    expect(test.logs.slice(logged)).toEqual([]);
    expect((await test.effects()).length - before).toBe(effects);
  });

  it.each(KINDS)('answers %s as it would without the library, but for the key and a length', async (path) => {
    const guarded = await test.post(`/${path}`, `compared-${path}`);
    const plain = await test.post(`/plain/${path}`, 'ignored');

    expect(guarded.statusLine).toBe(plain.statusLine);
    expect(guarded.body.equals(plain.body)).toBe(true);
    expect(comparable(guarded.headerLines)).toEqual(comparable(plain.headerLines));
  });
});

/** A body that was held is sent with its length where it would have been sent in chunks. */
function comparable(headerLines: string[]): string[] {
  return withoutVolatile(headerLines)
    .filter((line) => !/^(?:idempotency-key|content-length|transfer-encoding):/i.test(line))
    .toSorted();
}
