import * as fc from 'fast-check';
import type { Answer } from './answers.controller.js';

const token = fc.constantFrom(...'abcXYZ019!#$%&*+-.^_`|~');

const headerName = fc.oneof(
  fc.constantFrom(
    'ETag',
    'etag',
    'Location',
    'Vary',
    'X-Powered-By',
    'x-POWERED-by',
    'Link',
    'Retry-After',
    'Cache-Control',
  ),
  fc.constantFrom('__proto__', 'constructor', 'toString', 'x', 'X-a', 'x-A'),
  fc.array(token, { minLength: 1, maxLength: 8 }).map((parts) => `X-${parts.join('')}`),
);

const latin1 = fc.oneof(
  fc.integer({ min: 0x20, max: 0x7e }),
  fc.integer({ min: 0x80, max: 0xff }),
  fc.constantFrom(9, 0x22, 0x2c),
);
const headerText = fc.array(latin1, { maxLength: 12 }).map((codes) => String.fromCharCode(...codes));

export const answers = fc.record<Answer>({
  status: fc.oneof(fc.integer({ min: 200, max: 499 }), fc.constantFrom(200, 201, 204, 205, 206, 301, 304, 404, 409)),
  headers: fc
    .array(fc.tuple(headerName, fc.oneof(headerText, fc.array(headerText, { minLength: 1, maxLength: 3 }))), {
      maxLength: 5,
    })
    .chain((headers) =>
      fc
        .boolean()
        .map((typed) => [
          ...headers,
          ...(typed ? [['Content-Type', 'text/x; charset=utf-8'] as [string, string]] : []),
        ]),
    ),
  body: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  way: fc.constantFrom('framework', 'raw', 'raw in pieces', 'raw, pairs', 'raw, flat'),
});
