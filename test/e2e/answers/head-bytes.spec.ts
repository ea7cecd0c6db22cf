import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Idempotent } from '../../../src/index.js';
import type { RawResponse } from '../../support/raw-http.js';
import { lines } from '../../support/response.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { headBytesController, PATHS } from './head-bytes.controller.js';

const PLAIN = (() => () => undefined) as unknown as typeof Idempotent;

describe.each(ADAPTERS)('the bytes of a head that is not all ASCII, on %s', (adapter) => {
  let test: TestApp;
  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      controllers: [headBytesController('plain', PLAIN), headBytesController('idempotent', Idempotent)],
    });
  });
  afterAll(() => test.close());

  const bytesOf = (response: RawResponse) => ({
    status: response.statusLine,
    disposition: lines(response, 'Content-Disposition'),
    names: lines(response, 'X-Name'),
    fixed: lines(response, 'X-Fixed'),
    type: lines(response, 'Content-Type'),
    body: response.body.toString('latin1'),
  });

  it.each(PATHS)('are those of a plain route, and a replay has the same: %s', async (path) => {
    const plain = await test.post(`/plain/${encodeURI(path)}`, path);
    const first = await test.post(`/idempotent/${encodeURI(path)}`, path);
    const replay = await test.post(`/idempotent/${encodeURI(path)}`, path);
    expect(bytesOf(first)).toEqual(bytesOf(plain));
    expect(lines(replay, 'Idempotency-Replayed')).toEqual(['true']);
    expect(bytesOf(replay)).toEqual({
      ...bytesOf(plain),
      status: plain.statusLine.replace(/ (\d+) .*/, (_, code: string) => ` ${code} ${replay.statusLine.slice(13)}`),
    });
    expect(test.logs).toEqual([]);
  });
});
