import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { poll } from '../../src/client/index.js';
import { type Script, ScriptedServer } from './scripted-server.js';

let server: ScriptedServer;

beforeAll(async () => {
  server = await ScriptedServer.start();
});

afterAll(() => server.stop());

const ACCEPTED: Script = { status: 202, headers: { Location: '/jobs/1' }, body: { job: { id: 1 } } };
const DONE: Script = { status: 200, body: { state: 'done' } };

const begin = async (...script: Script[]) => {
  server.answers(...script);
  return fetch(server.url, { method: 'POST' });
};

it('looks until there is another status than 202, through whatever can be retried', async () => {
  const response = await begin(ACCEPTED, { status: 202 }, 'cut', { status: 503 }, DONE);
  expect(await (await poll(response, { intervalMs: 5 })).json()).toEqual({ state: 'done' });
  expect(server.received.map(({ method }) => method)).toEqual(['POST', 'GET', 'GET', 'GET', 'GET']);
});

it('answers what is no job as it is', async () => {
  const response = await begin({ status: 201 });
  expect(await poll(response)).toBe(response);
});

it('says that it cannot tell where the job is', async () => {
  await expect(poll(await begin({ status: 202 }))).rejects.toThrow(new TypeError('No Location'));
});

it('ends by its deadline, by its signal, and with what is not to be retried', async () => {
  const late = poll(await begin(ACCEPTED, { status: 202, headers: { 'Retry-After': '3600' } }));
  await expect(late).rejects.toMatchObject({ reason: 'deadline', outcome: 'unknown', transient: true });
  const aborted = poll(await begin(ACCEPTED, { status: 202 }), { signal: AbortSignal.abort() });
  await expect(aborted).rejects.toMatchObject({ reason: 'aborted' });
  expect((await poll(await begin(ACCEPTED, { status: 404 }))).status).toBe(404);
});
