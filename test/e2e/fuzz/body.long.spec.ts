// oxlint-disable jest/no-conditional-expect, jest/expect-expect -- what a property claims depends on the case that was generated
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import { Idempotent } from '../../../src/index.js';
import type { RawResponse } from '../../support/raw-http.js';
import { headerOf } from '../../support/response.js';
import { ADAPTERS, type TestApp } from '../../support/test-app.js';
import { bodyCase, change } from './body-values.js';
import { bodiesController, type BodyCase, plainly, views } from './body-views.js';
import { BODIES, parameters, SLOW_TEST_MS } from './settings.js';
import { startTest } from './start-test.js';

function sendBody(
  test: TestApp,
  prefix: string,
  key: string,
  { path, headers, chunked, bytes }: BodyCase,
): Promise<RawResponse> {
  const chunks = [bytes.subarray(0, bytes.length / 3), bytes.subarray(bytes.length / 3)].filter(
    ({ length }) => length > 0,
  );
  return test.request({
    method: 'POST',
    path: `${prefix}/${path}`,
    headers: [
      ...headers,
      ['Idempotency-Key', key],
      chunked ? ['Transfer-Encoding', 'chunked'] : ['Content-Length', String(bytes.length)],
    ],
    body: chunked
      ? Buffer.concat([
          ...chunks.flatMap((chunk) => [
            Buffer.from(`${chunk.length.toString(16)};x=y\r\n`),
            chunk,
            Buffer.from('\r\n'),
          ]),
          Buffer.from('0\r\nX-Trailer: late\r\n\r\n'),
        ])
      : bytes,
  });
}

describe.each(ADAPTERS)('a body, at a live server on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    test = await startTest(adapter, [
      bodiesController('', adapter, Idempotent),
      bodiesController('plain', adapter, plainly),
    ]);
  });

  afterAll(async () => {
    await test.close();
  });

  it(
    'gets what it gets without the library, the same on each retry, and never the answer to another body',
    async () => {
      await fc.assert(
        fc.asyncProperty(bodyCase, change, (sent, altered) =>
          checkBody(test, sent, { ...sent, bytes: altered(sent.bytes) }),
        ),
        parameters(BODIES),
      );
    },
    SLOW_TEST_MS,
  );
});

async function checkBody(test: TestApp & { lines: string[] }, sent: BodyCase, other: BodyCase): Promise<void> {
  const key = `fuzzed-${randomUUID()}`;
  test.lines.length = 0;
  const plain = await look(() => sendBody(test, '/plain', key, sent));
  const first = await look(() => sendBody(test, '', key, sent));
  // An empty list or object may have been read as well as not: then the library must have found it read.
  if (isUnread(plain, sent) && first.response.status !== plain.response.status) {
    const isUpload = sent.headers.some(([, value]) => value.toLowerCase().startsWith('multipart/'));
    expect(isUpload ? [415, 500] : [415]).toContain(first.response.status);
    expect(test.lines.join('\n')).not.toContain(key);
    return;
  }
  // Some 500s are the framework's own, such as @fastify/multipart's without a boundary: the library adds none.
  expect(first.response.status).toBe(plain.response.status);

  const retry = await look(() => sendBody(test, '', key, sent));
  expect(retry.response.status).toBe(first.response.status);
  expect(retry.response.body.equals(first.response.body)).toBe(true);
  expect(headerOf(retry.response, 'Idempotency-Replayed')).toBe(first.response.status < 300 ? 'true' : undefined);
  expect(retry.view).toBe(NOT_RUN);

  if (first.response.status < 300) {
    const unprotected = await look(() => sendBody(test, '/plain', key, other));
    const changed = await look(() => sendBody(test, '', key, other));
    if (isUnread(unprotected, other)) return;
    if (unprotected.response.status >= 300) expect(changed.response.status).toBe(unprotected.response.status);
    else if (!isSameView(unprotected.view, first.view)) expect(changed.response.status).toBe(422);
    else expect([201, 422]).toContain(changed.response.status);
    expect(changed.view).toBe(NOT_RUN);
  }
  expect(test.lines.join('\n')).not.toContain(key);
}

const NOT_RUN = Symbol('the handler did not run');

interface Looked {
  response: RawResponse;
  view: unknown;
}

async function look(send: () => Promise<RawResponse>): Promise<Looked> {
  views.length = 0;
  const response = await send();
  return { response, view: views.length === 0 ? NOT_RUN : views[0] };
}

/** No parser is there for it, so the handler gets nothing: an application with such clients has to register one. */
function isUnread({ response, view }: Looked, { bytes }: BodyCase): boolean {
  return (
    response.status === 201 && bytes.length > 0 && (Array.isArray(view) ? view[0] === undefined : view === undefined)
  );
}

/** Member order does not count, and neither does the sign of zero. */
function isSameView(one: unknown, other: unknown): boolean {
  try {
    return isDeepStrictEqual(one, other) || JSON.stringify(one) === JSON.stringify(other);
  } catch {
    return true; // too deep to be compared: nothing is claimed then
  }
}
