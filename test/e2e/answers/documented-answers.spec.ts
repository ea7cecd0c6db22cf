import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { INestApplication } from '@nestjs/common';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { FastifyReply } from 'fastify';
import { Idempotent } from '../../../src/index.js';
import { type RawResponse, withoutVolatile } from '../../support/raw-http.js';
import { type Adapter, ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { isNestJsSince, KEEPS_LATE_TRAILERS, NESTJS_MAJOR } from '../../support/versions.js';
import { expressController } from './express.controller.js';
import { fastifyController } from './fastify.controller.js';
import { nestController } from './nest.controller.js';

type Row = [path: string, status: number, effects: number];

/** The guides "Response" of Express 4 and 5, method by method, and what Node's own response has beside them. */
const EXPRESS: Row[] = [
  ['send-string', 201, 1],
  ['send-buffer', 201, 1],
  ['send-object', 201, 1],
  ['send-nothing', 202, 1],
  ['send-boolean', 201, 1],
  ['send-204', 204, 1],
  ['send-205', 205, 1],
  ['send-304', 304, 1],
  ['json', 201, 1],
  ['jsonp', 201, 1],
  ['end', 201, 1],
  ['end-empty', 202, 1],
  ['end-before', 201, 1],
  ['send-file', 201, 1],
  ['send-file-awaited', 201, 1],
  ['send-file-missing', 404, 1],
  ['download', 201, 1],
  ['download-awaited', 201, 1],
  ['format', 201, 1],
  ['redirect', 302, 1],
  ['redirect-301', 301, 1],
  ['redirect-back', 302, 1],
  ['send-status', 202, 1],
  ['headers', 201, 1],
  ['cookies', 201, 1],
  ['render', 201, 1],
  ['render-awaited', 201, 1],
  ['render-decorator', 201, 1],
  ['early-hints', 201, 1],
  ['processing', 201, 1],
  ['reason', 201, 1],
  ['write-head', 202, 1],
  ['write', 201, 1],
  ['write-with-length', 201, 1],
  ['trailers', 201, 1],
  ['piped', 201, 1],
  ['pipeline-callback', 201, 1],
  ['pipeline-in-background', 201, 1],
  ['web-stream', 201, 1],
  ['next-error', 500, 0],
  ['next-error-later', 500, 0],
  ['next-conflict', 409, 0],
];

/** The guides "Reply" of Fastify 4 and 5, method by method. */
const FASTIFY: Row[] = [
  ['send-string', 201, 1],
  ['send-string-json', 201, 1],
  ['send-buffer', 201, 1],
  ['send-typed-array', 201, 1],
  ['send-object', 201, 1],
  ['send-null', 201, 1],
  ['send-nothing', 201, 1],
  ['send-number', 201, 1],
  ['send-204', 204, 1],
  ['send-304', 304, 1],
  ['send-stream', 201, 1],
  ['send-stream-broken', 500, 0],
  ['send-web-stream', 201, 1],
  ['send-web-response', 203, 1],
  ['send-web-response-empty', 204, 1],
  ['send-error', NESTJS_MAJOR < 12 ? 409 : 500, 0], // by the error's own `statusCode` until NestJS 12
  ['code', 202, 1],
  ['headers', 203, 1],
  ['trailer', 201, 1],
  ['trailer-removed', 201, 1],
  ['trailer-of-nothing', 201, 1],
  ['trailer-of-stream', 201, 1],
  ['trailer-of-web-stream', 201, 1],
  ['trailer-passthrough', 201, 1],
  ['trailer-failing', 201, 1],
  ['redirect', 303, 1],
  ['redirect-302', 302, 1],
  ['redirect-decorator', 302, 1],
  ['serializer', 201, 1],
  ['serialize', 201, 1],
  ['raw', 202, 1],
  ['raw-without-hijack', 201, 1],
  ['raw-before', 201, 1],
  ['raw-piped', 201, 1],
  ['reason', 201, 1],
  ['sent', 201, 2],
  ['await-reply', 201, 1],
  ['return-reply', 201, 1],
  ['elapsed', 201, 1],
  ['early-hints', 201, 1],
  ['view', 201, 1],
  ['send-twice', 201, 1],
];

/** What NestJS makes of a value, on both. */
const NEST: Row[] = [
  ['web-response', 203, 1],
  ['web-response-json', 409, 1],
  ['web-response-empty', 204, 1],
  ['web-response-redirect', 303, 1],
  ['web-stream', 201, 1],
  ['node-stream', 201, 1],
  ['async-iterable', 201, 1],
  ['streamable', 201, 1],
  ['observable-of-several', 201, 1],
  ['observable-of-streamable', 201, 1],
  ['status-of-value', 422, 1],
  ['made-a-web-response', 422, 1],
  ['headers', 203, 1],
  ['redirect', 301, 1],
  ['undefined', 201, 1],
  ['buffer', 201, 1],
  ['bytes', 201, 1],
  ['false', 201, 1],
];

/** A file or stream that fails before its first byte: the handler has returned, but not what it promised. */
const FAILING: Record<Adapter, Row[]> = {
  express: [
    ['streamable-failing', 400, 0],
    ['streamable-failing-handled', 410, 0],
    ['node-stream-failing', 500, 0],
    ['error', 201, 1],
  ],
  fastify: [
    ['streamable-failing', 500, 0],
    ['node-stream-failing', 500, 0],
    ['error', 500, 0],
  ],
};

/** What there is only from a version of NestJS on, or of the Fastify that comes with it. */
const SINCE: Record<Adapter, Record<string, string>> = {
  express: {
    'nest/web-response': '12.4',
    'nest/web-response-json': '12.4',
    'nest/web-response-empty': '12.4',
    'nest/web-response-redirect': '12.4',
    'nest/made-a-web-response': '12.4',
    'nest/node-stream-failing': '12.4',
  },
  fastify: {
    'send-error': '11',
    'trailer-of-stream': '11',
    'trailer-of-web-stream': '11',
    'early-hints': '11',
    'nest/web-response-redirect': '11',
  },
};

const decorateNothing: typeof Idempotent = () => () => undefined;

describe.each(ADAPTERS)('every documented way to answer on %s', (adapter) => {
  let test: TestApp;
  let views: string;
  const guide = adapter === 'express' ? expressController : fastifyController;
  const rows = [
    ...(adapter === 'express' ? EXPRESS : FASTIFY).map((row): Row => row),
    ...[...NEST, ...FAILING[adapter]].map(([path, ...rest]): Row => [`nest/${path}`, ...rest]),
  ].filter(([path]) => isNestJsSince(SINCE[adapter][path] ?? '0'));

  beforeAll(async () => {
    views = await mkdtemp(join(tmpdir(), 'idempotency-views-'));
    await writeFile(join(views, 'page.html'), 'rendered by the function below');
    test = await createTestApp({
      adapter,
      idempotency: { timeoutMs: 5_000 },
      controllers: [
        guide('guarded', Idempotent),
        guide('plain', decorateNothing),
        nestController('guarded/nest', Idempotent),
        nestController('plain/nest', decorateNothing),
      ],
      configure: (app) => withViews(app, adapter, views),
    });
  });

  afterAll(async () => {
    await test.close();
    await rm(views, { recursive: true });
  });

  const send = (path: string, key: string): Promise<RawResponse> =>
    test.post(`/${path}`, key, {}, [
      ['Referer', '/from/here'],
      ['Accept', 'application/json'],
    ]);

  /** Without the library a handler may write after its answer has arrived. */
  const guardedEffects = async (): Promise<number> =>
    (await test.effects()).filter((label) => label.startsWith('guarded')).length;

  it.each(rows)(
    '%s answers as it would without the library, and a retry gets the same',
    async (path, status, effects) => {
      const plain = await send(`plain/${path}`, 'ignored');
      const before = await guardedEffects();
      const first = await send(`guarded/${path}`, path);
      const logged = test.logs.length;
      const second = await send(`guarded/${path}`, path);

      expect(first.status).toBe(status);
      expect(first.statusLine).toBe(plain.statusLine);
      expect(first.body.toString('latin1')).toBe(plain.body.toString('latin1'));
      expect(comparable(first)).toEqual(comparable(plain));
      expect(interimOf(first)).toBe(interimOf(plain));
      expect(trailersOf(first)).toBe(lateTrailers(path) ?? trailersOf(plain));
      expect((await guardedEffects()) - before).toBe(effects);

      expect(second.status).toBe(status);
      expect(second.body.toString('latin1')).toBe(first.body.toString('latin1'));
      expect(stored(second)).toEqual(stored(first));
      const [isReplay, isQuiet] = [
        second.headerLines.includes('Idempotency-Replayed: true'),
        test.logs.length === logged,
      ];
      expect([isReplay, isReplay && !isQuiet]).toEqual([effects > 0, false]);
    },
  );

  it.each(adapter === 'express' ? ['next'] : ['call-not-found'])(
    '%s hands the request on to where there is nothing, which undoes the handler',
    async (path) => {
      const before = await guardedEffects();
      const [first, second] = [await send(`guarded/${path}`, path), await send(`guarded/${path}`, path)];
      expect([first.status, second.status]).toEqual([404, 404]);
      expect(first.body.toString()).toContain(`Cannot POST /guarded/${path}`);
      expect(await guardedEffects()).toBe(before);
    },
  );
});

/** What a plain route loses, and one whose response waits for COMMIT does not. */
function lateTrailers(path: string): string | undefined {
  return /^trailer-of-(?:web-)?stream$/.test(path) && !KEEPS_LATE_TRAILERS ? 'x-late: after the stream\r\n' : undefined;
}

/** A body that was held is sent with its length where it would have been sent in chunks. */
function comparable({ headerLines }: RawResponse): string[] {
  return withoutVolatile(headerLines)
    .filter((line) => !/^(?:idempotency-key|content-length|transfer-encoding):/i.test(line))
    .map((line) => line.replace(/Expires=[^;]*/, 'Expires=...'));
}

/** What a replay has of the headers. */
function stored(response: RawResponse): string[] {
  return comparable(response).filter((line) => !/^(?:set-cookie|trailer|idempotency-replayed):/i.test(line));
}

/** The answers before the answer (1xx), as they came. */
function interimOf({ raw, statusLine }: RawResponse): string {
  const text = raw.toString('latin1');
  return text.slice(0, text.indexOf(statusLine));
}

function trailersOf({ raw }: RawResponse): string | undefined {
  return /\r\n0\r\n((?:[^\r\n]+\r\n)*)\r\n$/.exec(raw.toString('latin1'))?.[1] || undefined;
}

/** A view engine of one line. */
function withViews(app: INestApplication, adapter: Adapter, folder: string): void {
  const render = ({ title }: { title: string }): string => `<h1>${title.toUpperCase()}</h1>`;
  if (adapter === 'express') {
    const express = app as NestExpressApplication;
    express.engine('html', (_: string, options: { title: string }, done: (error: unknown, html?: string) => void) => {
      try {
        done(null, render(options));
      } catch (error) {
        done(error);
      }
    });
    express.setViewEngine('html');
    express.setBaseViewsDir(folder);
  } else {
    app
      .getHttpAdapter()
      .getInstance()
      .decorateReply('view', function (this: FastifyReply, _: string, options: { title: string }) {
        return this.type('text/html').send(render(options));
      });
  }
}
