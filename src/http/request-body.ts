import { once } from 'node:events';
import { type HttpRequest, rawRequest, type RawRequest } from './http-request.js';
import { type MultipartBody, readMultipart } from './multipart-body.js';
import { UnreadBodyError } from './unread-body.error.js';

/** A body by what can be compared of it. */
export type RequestBody =
  | { readonly kind: 'none' }
  | { readonly kind: 'bytes'; readonly bytes: string | Uint8Array }
  | { readonly kind: 'json'; readonly value: unknown }
  | MultipartBody;

const JSON_TYPE = /[/+]json$/;

/**
 * Sorts out what the parsers left of the body, alike for both frameworks.
 *
 * @param type the body's media type, in lower case and without parameters
 * @throws UnreadBodyError when there is a body, but not in `request.body`
 */
export async function readRequestBody(request: HttpRequest, type: string): Promise<RequestBody> {
  const { body } = request;
  const raw = rawRequest(request);
  const isAbsent = isWithoutBody(body, raw, type);
  if (isAbsent === undefined && (await isBodyArriving(raw))) {
    throw UnreadBodyError.notParsed(type);
  }
  if (isAbsent !== false) {
    return { kind: 'none' };
  }

  if (body instanceof Uint8Array) {
    return { kind: 'bytes', bytes: body };
  }
  // A JSON text that is a single string arrives as a string, too; as JSON its lone surrogates stay apart.
  if (typeof body === 'string' && !JSON_TYPE.test(type)) {
    return { kind: 'bytes', bytes: body };
  }
  if (type.startsWith('multipart/')) {
    return readMultipart(request);
  }
  return { kind: 'json', value: body };
}

/**
 * "No body" is said only of a request that has none: everything else that leaves `body` empty is an error; `undefined`
 * where only the stream itself can tell.
 */
function isWithoutBody(body: unknown, raw: RawRequest, type: string): boolean | undefined {
  if (isStream(body)) {
    throw UnreadBodyError.notParsed(type);
  }
  const length = announcedLength(raw);
  // Some parsers, Express 4's among them, leave `{}` or `null` for a body that they did not read.
  if (length === 0) {
    return isBlank(body);
  }
  if (isBlank(body) && !raw.readableDidRead) {
    if (length !== undefined) {
      throw UnreadBodyError.notParsed(type);
    }
    return undefined;
  }
  if (body === undefined) {
    throw UnreadBodyError.notKept(type);
  }
  return false;
}

/** RFC 9112, section 6.3, and RFC 9113, section 8.1.1; `undefined` when only the end of the body will tell. */
function announcedLength(raw: RawRequest): number | undefined {
  const { 'content-length': length, 'transfer-encoding': coding } = raw.headers;
  if (coding !== undefined) {
    return undefined;
  }
  if (length !== undefined) {
    return Number(length);
  }
  return raw.httpVersionMajor >= 2 && 'stream' in raw && !raw.stream.endAfterHeaders ? undefined : 0;
}

/**
 * Waits for the first byte of a body of unknown length, which some clients and proxies announce where there is none.
 * Nothing is taken from the stream.
 */
async function isBodyArriving(raw: RawRequest): Promise<boolean> {
  // A parser has read to the end already, and there was nothing to read.
  if (raw.readableEnded) {
    return false;
  }
  // The client is gone, and no event would say so again.
  if (raw.destroyed) {
    return true;
  }

  const over = new AbortController();
  const next = ['readable', 'end', 'close'].map((event) => once(raw, event, { signal: over.signal }).then(() => event));
  try {
    // A stream that becomes readable with nothing in it has come to its end.
    return (await Promise.race(next)) === 'close' || raw.readableLength > 0;
  } finally {
    over.abort();
  }
}

function isBlank(body: unknown): boolean {
  return body === undefined || body === null || (typeof body === 'object' && Object.keys(body).length === 0);
}

/** Of Node or of the web. A parsed document may have members of these names, but no functions. */
function isStream(body: unknown): boolean {
  const { pipe, getReader } = (body ?? {}) as { pipe?: unknown; getReader?: unknown };
  return typeof pipe === 'function' || typeof getReader === 'function';
}
