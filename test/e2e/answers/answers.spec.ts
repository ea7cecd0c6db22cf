import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { RawResponse } from '../../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { WaitingController, WriterController } from './controller.js';

const isReplay = (response: RawResponse): boolean => response.headerLines.includes('Idempotency-Replayed: true');

describe.each(ADAPTERS)('who writes the head of a response on %s', (adapter) => {
  let test: TestApp;
  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [WriterController] });
  });
  afterAll(() => test.close());

  const send = (path: string): Promise<RawResponse> => test.post(`/writer/${path}`, path, { label: path });
  const effectsOf = async (path: string): Promise<string[]> => (await test.effects()).filter((label) => label === path);

  it.each([
    ['with the very status of the route', 'same-status', 409],
    ['with the very status that the handler had set', 'same-status-set', 409],
    ['that a filter answers later', 'same-status-slowly', 409],
    ['that a filter makes a success of', 'forgiven', 200],
  ])('an error further out %s undoes the handler, and is not recorded', async (_, path, status) => {
    const first = await send(path);
    const second = await send(path);
    expect([first.status, second.status]).toEqual([status, status]);
    expect([isReplay(first), isReplay(second)]).toEqual([false, false]);
    expect(await effectsOf(path)).toEqual([]);
  });

  it.each([
    ['a status of 409 that the route means', 'own-conflict', 409],
    ['an error that was caught before it reached a filter', 'caught-further-out', 201],
  ])('%s is an answer like any other', async (_, path, status) => {
    const first = await send(path);
    const second = await send(path);
    expect([first.status, second.status]).toEqual([status, status]);
    expect(second.body).toEqual(first.body);
    expect([isReplay(first), isReplay(second)]).toEqual([false, true]);
    expect(await effectsOf(path)).toEqual([path]);
  });
});

describe.each(ADAPTERS)('a handler on %s', (adapter) => {
  let test: TestApp;
  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      controllers: [WaitingController],
      idempotency: { timeoutMs: 5_000 },
      configure: (app) => {
        if (adapter === 'fastify') {
          // Asynchronous, so that the reply ends later than send() returns.
          app
            .getHttpAdapter()
            .getInstance()
            .addHook('onSend', async (_request: unknown, _reply: unknown, payload: unknown) => payload);
        }
      },
    });
  });
  afterAll(() => test.close());

  const send = (path: string, headers: [string, string][] = []): Promise<RawResponse> =>
    test.post(`/waits/${path}`, path, { label: path }, headers);

  it.each([
    ['waits for pipeline() into its response', 'pipeline', 'one two pipeline', 'pipeline'],
    ['waits for the callback of end()', 'end-callback', 'end-callback', 'end-callback'],
    ["waits for 'finish', and is told once", 'finish-event', 'finish-event', 'finish-event 1'],
    ['waits for finished()', 'finished', 'finished', 'finished'],
    ['returns what send(stream) returns', 'return-stream', 'return-stream', 'return-stream'],
    ['waits for a stream to be sent', 'await-stream', 'await-stream', 'await-stream'],
    ['waits for send(json)', 'await-json', '{"label":"await-json"}', 'await-json'],
  ])('that %s is answered, recorded and replayed', async (_, path, body, effect) => {
    const first = await send(path);
    const second = await send(path);
    expect(first.body.toString()).toBe(body);
    expect(first.status).toBeLessThan(300);
    expect([second.status, second.body.toString()]).toEqual([first.status, body]);
    expect([isReplay(first), isReplay(second)]).toEqual([false, true]);
    expect((await test.effects()).filter((label) => label.startsWith(path))).toEqual([effect]);
  });

  it('that sends trailers has them arrive, and a replay has the body without them', async () => {
    const first = await send('trailers');
    const second = await send('trailers');
    expect(first.raw.toString()).toMatch(/\r\n0\r\nX-Checksum: abc\r\n\r\n$/);
    expect(second.body.toString()).toBe('one trailers');
    expect(second.raw.toString()).not.toMatch(/trailer:/i);
  });

  it('that emits several values has outer interceptors see each', async () => {
    const first = await send('several-values');
    expect(JSON.parse(first.body.toString())).toEqual(['several-values 1', 'several-values 2', 'several-values 3']);
    expect((await send('several-values')).body).toEqual(first.body);
  });

  it('that was replayed lets code further out call write() and end() detached', async () => {
    const first = await send('detached');
    const replay = await send('detached', [['X-Detach', 'yes']]);
    expect(isReplay(replay)).toBe(true);
    expect(replay.body).toEqual(first.body);
    expect(test.logs).toEqual([]);
  });
});
