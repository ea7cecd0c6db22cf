import { afterAll, beforeAll, expect } from '@jest/globals';
import type { RawResponse } from '../../support/raw-http.js';
import { lines } from '../../support/response.js';
import { type Adapter, createTestApp, type TestApp } from '../../support/test-app.js';
import { Handlers } from './handlers.controller.js';
import { compressing, ownHeaders, saving } from './middleware.js';

export const REPLAYED = expect.objectContaining({
  headerLines: expect.arrayContaining(['Idempotency-Replayed: true']),
});

/** An application behind middleware, what tests send it, and what they look at. */
export function headersOn(adapter: Adapter) {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      controllers: [Handlers],
      configure: (app) => {
        app.enableCors({ origin: true, credentials: true, exposedHeaders: ['Idempotency-Replayed'] });
        app.use(ownHeaders);
        app.use(compressing);
        app.use(saving);
      },
    });
  });

  afterAll(() => test.close());

  const send = (path: string, headers: [string, string][] = [], key = path) =>
    test.request({ method: 'POST', path: `/${path}`, headers: [['Idempotency-Key', key], ...headers] });

  async function storedHeaders(key: string): Promise<[string, string | null][]> {
    const rows = await test.dataSource.query('select response_headers from idempotency_keys where key = $1', [key]);
    return (rows as [{ response_headers: [string, string | null][] }])[0].response_headers;
  }

  const storedNames = async (key: string) => (await storedHeaders(key)).map(([name]) => name.toLowerCase()).toSorted();

  const ownOf = (response: RawResponse) =>
    Object.fromEntries(
      [
        'X-Request-Id',
        'X-RateLimit-Remaining',
        'Set-Cookie',
        'X-Changed',
        'X-Removed',
        'Access-Control-Allow-Origin',
      ].map((name) => [name, lines(response, name)]),
    );

  const ownOfRequest = (number: number, origin: string) => ({
    'X-Request-Id': [`request-${number}`],
    'X-RateLimit-Remaining': [String(1000 - number)],
    'Set-Cookie': [`session=${number}`],
    'X-Changed': [`by middleware ${number}`],
    'X-Removed': [`by middleware ${number}`],
    'Access-Control-Allow-Origin': [origin],
  });

  return { application: () => test, send, storedHeaders, storedNames, ownOf, ownOfRequest };
}
