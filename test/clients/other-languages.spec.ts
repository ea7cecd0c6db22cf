import { readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ADAPTERS } from '../support/test-app.js';
import { PaymentsApi } from './payments-api.js';

const FIXTURES = new URL('fixtures/', import.meta.url);
const RECORDED = readdirSync(FIXTURES).filter((name) => name.endsWith('.http'));

describe.each(ADAPTERS)('what clients in other languages send, with %s', (adapter) => {
  let api: PaymentsApi;

  beforeAll(async () => {
    api = await PaymentsApi.start(adapter);
  });

  afterAll(() => api.close());

  it.each(RECORDED)('%s pays once, sent again after its answer was lost', async (name) => {
    const bytes = readFileSync(new URL(name, FIXTURES));
    const destination = /"destination": ?"(\w+)"/.exec(bytes.toString())![1]!;
    const network = await api.network();
    network.loseNextAnswer();
    const send = async () => {
      const socket = connect(network.port, '127.0.0.1');
      socket.write(bytes);
      // Those that keep their connection end it when they have read the answer.
      socket.on('data', (chunk) => chunk.includes(destination) && socket.end());
      return (await buffer(socket)).toString();
    };
    await expect(send().catch((error: NodeJS.ErrnoException) => error.code ?? '')).resolves.toMatch(
      /^(?:ECONNRESET)?$/,
    );
    expect(await api.effects({ destination })).toBe(1);
    expect(await send()).toMatch(/^HTTP\/1\.1 201 Created\r\n[^]*idempotency-replayed: true\r\n/i);
    expect([network.struck, await api.effects({ destination })]).toEqual([1, 1]);
  });
});
