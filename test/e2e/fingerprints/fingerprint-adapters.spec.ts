import { readdir, rm } from 'node:fs/promises';
import multipart, { type FastifyMultipartAttachFieldsToBodyOptions } from '@fastify/multipart';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { Test } from '@nestjs/testing';
import type { INestApplication, Type } from '@nestjs/common';
import type { NestExpressApplication } from '@nestjs/platform-express';
import {
  ExpressUploadsController,
  FastifyUploadsController,
  PaymentsController,
  PluginUploadsController,
  uploadFolder,
} from './fingerprint.controllers.js';
import { form, HEX, INVOICE, NOTE, type Part, SCAN, type Sent } from './requests.js';

const WRONG_ORDER_ON_FASTIFY: [string, keyof Apps, Sent] = [
  'an upload interceptor above @Idempotent() on Fastify',
  'fastify',
  { path: '/uploads/wrong-order', ...form([SCAN]) },
];

interface Apps {
  express: INestApplication;
  fastify: INestApplication;
  attached: INestApplication;
  keyValues: INestApplication;
  plain: INestApplication;
}
let apps: Apps;

beforeAll(async () => {
  apps = {
    express: await startExpress(),
    fastify:
      FastifyUploadsController === undefined
        ? await startFastify(PluginUploadsController, { attachFieldsToBody: true })
        : await startFastify(FastifyUploadsController),
    attached: await startFastify(PluginUploadsController, { attachFieldsToBody: true }),
    keyValues: await startFastify(PluginUploadsController, { attachFieldsToBody: 'keyValues' }),
    plain: await startFastify(PluginUploadsController, {}),
  };
});
afterAll(async () => {
  await Promise.all(Object.values(apps).map((app: INestApplication) => app.close()));
  await rm(uploadFolder, { recursive: true });
});

async function startExpress(): Promise<INestApplication> {
  const module = await Test.createTestingModule({
    controllers: [PaymentsController, ExpressUploadsController],
  }).compile();
  const app = module.createNestApplication<NestExpressApplication>();
  app.useBodyParser('text').useBodyParser('raw');
  await app.listen(0, '127.0.0.1');
  return app;
}

async function startFastify(
  uploads: Type,
  options?: { attachFieldsToBody?: FastifyMultipartAttachFieldsToBodyOptions['attachFieldsToBody'] },
): Promise<INestApplication> {
  const module = await Test.createTestingModule({ controllers: [PaymentsController, uploads] }).compile();
  const app = module.createNestApplication<NestFastifyApplication>(new FastifyAdapter());
  // Not by NestJS: before 12 that leaves out what it reads by itself, urlencoded forms among them.
  const fastify = app.getHttpAdapter().getInstance();
  fastify.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_, body, done) => done(null, body));
  if (options) await app.register(multipart, options);
  await app.listen(0, '127.0.0.1');
  return app;
}

/** The fingerprint that the application answers with; or its error, or the framework's. */
async function send(app: keyof Apps, { method = 'POST', path = '/v1/payments/7', type, body }: Sent): Promise<string> {
  const headers: Record<string, string> = type === undefined ? {} : { 'Content-Type': type };
  const response = await fetch((await apps[app].getUrl()) + path, { method, headers, body });
  return response.text();
}

describe('the same request to Express and to Fastify', () => {
  it.each<[string, Sent]>([
    ['without a body', {}],
    ['with DELETE', { method: 'DELETE' }],
    ['with PUT', { method: 'PUT', type: 'application/json', body: '{"amount":10}' }],
    ['with a query', { path: '/v1/payments/7?b=2&a=1&a=3&empty&plus=1+1&%41=%C3%BC&bad=%ff' }],
    ['with an encoded path', { path: '/v1/payments/a%2Fb%20c' }],
    ['with JSON', { type: 'application/json', body: '{"b":[1,2.50,"\\u00fc"],"a":{"d":null,"c":1e3}}' }],
    ['with a charset', { type: 'application/json; charset=utf-8', body: '{"name":"Jürgen 😀"}' }],
    ['with an empty object', { type: 'application/json', body: '{}' }],
    ['with a urlencoded form', { type: 'application/x-www-form-urlencoded', body: 'b=1&a=x+y%21&b=2&c=' }],
    ['with an empty urlencoded form', { type: 'application/x-www-form-urlencoded', body: '' }],
    ['with text', { type: 'text/plain', body: 'Zahlung über 10 €' }],
    ['with bytes', { type: 'application/octet-stream', body: Buffer.from([0, 1, 254, 255]) }],
  ])('has the same fingerprint: %s', async (_, sent) => {
    const fingerprint = await send('express', sent);

    expect(fingerprint).toMatch(HEX);
    expect(await send('fastify', sent)).toBe(fingerprint);
  });

  it.each<[string, Part[]]>([
    ['files only', [SCAN, INVOICE]],
    ['text fields only', [NOTE, { name: 'amount', content: '10' }]],
    ['files and text fields', [NOTE, SCAN, INVOICE]],
    ['several files of one field', [SCAN, { ...SCAN, filename: 'page2.pdf', content: 'second' }]],
    ['several values of one field', [NOTE, { ...NOTE, content: 'and' }, { ...NOTE, content: 'more' }, SCAN]],
    ['a field that is both text and file', [{ ...NOTE, name: 'scan' }, SCAN]],
    ['an empty file', [{ ...SCAN, content: '' }]],
    [
      'an empty file input of an HTML form',
      [NOTE, { name: 'scan', filename: '', type: 'application/octet-stream', content: '' }],
    ],
    ['a file name beyond ASCII', [{ ...SCAN, filename: 'Müller €.pdf' }]],
    ['a file name that Latin-1 could hold', [{ ...SCAN, filename: 'Müller.pdf' }]],
    ['a file without media type', [{ ...SCAN, type: undefined }]],
    ['a media type with parameters', [{ ...INVOICE, type: 'Text/Plain; charset=UTF-8' }]],
    ['an empty form field', [{ ...NOTE, content: '' }]],
  ])('has the same fingerprint as multipart with %s', async (_, parts) => {
    const sent = { path: '/uploads/memory', ...form(parts) };
    const fingerprint = await send('express', sent);

    expect(fingerprint).toMatch(HEX);
    expect(await send('fastify', sent)).toBe(fingerprint);
    expect(await send('attached', sent)).toBe(fingerprint);
  });

  it.each(['disk', 'by-field', 'single'])('has the same fingerprint with multer %s', async (route) => {
    const sent = { path: `/uploads/${route}`, ...form([NOTE, SCAN]) };
    const fingerprint = await send('express', sent);

    expect(fingerprint).toMatch(HEX);
    expect(await send('fastify', sent)).toBe(fingerprint);
    expect(await send('attached', sent)).toBe(fingerprint);
  });
});

describe.each(['express', 'fastify'] as const)('a retry on %s', (app) => {
  const json: Sent = { type: 'application/json', body: '{"amount":10,"to":{"iban":"DE1","name":"Jürgen"}}' };

  it.each<[string, Sent]>([
    ['reordered JSON members', { ...json, body: '{"to":{"name":"Jürgen","iban":"DE1"},"amount":10}' }],
    [
      'other white space and escapes',
      { ...json, body: '{ "amount": 10.0,\n"to":{"iban":"DE1","name":"J\\u00FCrgen"} }' },
    ],
    ['a charset', { ...json, type: 'Application/JSON; charset="UTF-8"' }],
  ])('is recognised in spite of %s', async (_, retry) => {
    const fingerprint = await send(app, json);

    expect(fingerprint).toMatch(HEX);
    expect(await send(app, retry)).toBe(fingerprint);
  });

  it.each<[string, Sent]>([
    ['another method', { ...json, method: 'PUT' }],
    ['another endpoint', { ...json, path: '/v1/payments/8' }],
    ['a query', { ...json, path: '/v1/payments/7?notify=true' }],
    ['another value', { ...json, body: '{"amount":11,"to":{"iban":"DE1","name":"Jürgen"}}' }],
    ['another nesting', { ...json, body: '{"amount":10,"to":{"iban":"DE1"},"name":"Jürgen"}' }],
    ['a string for a number', { ...json, body: '{"amount":"10","to":{"iban":"DE1","name":"Jürgen"}}' }],
    ['no body', {}],
    ['the same text as text', { ...json, type: 'text/plain' }],
    ['the same bytes as bytes', { ...json, type: 'application/octet-stream' }],
  ])('is told from another request by %s', async (_, other) => {
    const fingerprint = await send(app, other);

    expect(fingerprint).toMatch(HEX);
    expect(fingerprint).not.toBe(await send(app, json));
  });
});

describe.each<[keyof Apps, string]>([
  ['express', 'memory'],
  ['express', 'disk'],
  ['fastify', 'memory'],
  ['fastify', 'disk'],
  ['attached', 'memory'],
  ['keyValues', 'memory'],
])('a retried upload (%s, %s)', (app, route) => {
  const upload = (parts: readonly Part[], boundary?: string): Promise<string> =>
    send(app, { path: `/uploads/${route}`, ...form(parts, boundary) });

  it('is recognised, whatever the boundary and the order of different fields', async () => {
    const fingerprint = await upload([NOTE, SCAN, INVOICE]);

    expect(fingerprint).toMatch(HEX);
    expect(await upload([NOTE, SCAN, INVOICE], 'another-boundary')).toBe(fingerprint);
    expect(await upload([INVOICE, SCAN, NOTE])).toBe(fingerprint);
  });

  it.each<[string, Part[]]>([
    ['one byte of a file', [NOTE, { ...SCAN, content: Buffer.from([0, 254, 13, 10]) }, INVOICE]],
    ['the field that a file belongs to', [NOTE, { ...SCAN, name: 'other' }, INVOICE]],
    ['one file less', [NOTE, SCAN]],
    ['one file more', [NOTE, SCAN, INVOICE, INVOICE]],
    ['a text field', [{ ...NOTE, content: 'für Jörg' }, SCAN, INVOICE]],
    ['a text field less', [SCAN, INVOICE]],
    [
      'contents that changed places',
      [NOTE, { ...SCAN, content: INVOICE.content }, { ...INVOICE, content: SCAN.content }],
    ],
    ['text where there was a file', [NOTE, SCAN, { name: 'invoice', content: INVOICE.content }]],
  ])('is told from another upload by %s', async (_, parts) => {
    const fingerprint = await upload(parts);

    expect(fingerprint).toMatch(HEX);
    expect(fingerprint).not.toBe(await upload([NOTE, SCAN, INVOICE]));
  });

  it('is told from another upload by the order of one field’s files', async () => {
    const [first, second] = [SCAN, { ...SCAN, content: 'second page' }];

    expect(await upload([first, second])).not.toBe(await upload([second, first]));
  });
});

describe.each<keyof Apps>(['express', 'fastify', 'attached'])('an upload on %s', (app) => {
  const upload = (part: Part): Promise<string> => send(app, { path: '/uploads/memory', ...form([part]) });

  it('is told from another by the name and the media type of a file', async () => {
    const fingerprint = await upload(SCAN);

    expect(await upload({ ...SCAN, filename: 'scan2.pdf' })).not.toBe(fingerprint);
    expect(await upload({ ...SCAN, type: 'image/png' })).not.toBe(fingerprint);
  });
});

describe('an upload to disk', () => {
  it('leaves the temporary file and its generated name out', async () => {
    const sent = { path: '/uploads/disk', ...form([{ ...SCAN, content: Buffer.alloc(300_000, 'scan') }]) };
    const before = await readdir(uploadFolder);
    const fingerprints = [await send('express', sent), await send('express', sent), await send('fastify', sent)];

    expect(await readdir(uploadFolder)).toHaveLength(before.length + (FastifyUploadsController === undefined ? 2 : 3));
    expect(fingerprints).toEqual(Array.from({ length: 3 }, () => expect.stringMatching(HEX)));
    expect(new Set(fingerprints).size).toBe(1);
  });
});

describe('a body that nobody has read', () => {
  it.each<[string, keyof Apps, Sent]>([
    [
      'an upload interceptor above @Idempotent() on Express',
      'express',
      { path: '/uploads/wrong-order', ...form([SCAN]) },
    ],
    ...(FastifyUploadsController === undefined ? [] : [WRONG_ORDER_ON_FASTIFY]),
    ['an upload without interceptor on Express', 'express', form([SCAN])],
    ['@fastify/multipart without attachFieldsToBody', 'plain', { path: '/uploads/memory', ...form([SCAN]) }],
    ['a media type without parser', 'express', { type: 'application/xml', body: '<payment/>' }],
    ['a body without media type', 'express', { body: Buffer.from('{}') }],
  ])('is an error that says what to do, not an empty body: %s', async (_, app, sent) => {
    const answer = await send(app, sent);

    expect(answer).toContain('UnreadBodyError');
    expect(answer).toContain('Move @UseInterceptors(FileInterceptor(...)) below @Idempotent()');
    expect(answer).toContain('attachFieldsToBody: true');
    expect(answer).toContain('`fingerprint` resolver');
  });

  if (FastifyUploadsController !== undefined) {
    it('is an error that says what to do, not an empty file: an upload that the handler is to stream', async () => {
      const answer = await send('fastify', { path: '/uploads/streamed', ...form([NOTE, SCAN]) });

      expect(answer).toContain('UnreadBodyError: The content of the uploaded file "scan"');
      expect(answer).toContain('`fingerprint` resolver');
    });
  }
});
