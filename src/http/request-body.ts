import { rawRequest } from './http-request.js';
import { readMultipart } from './multipart-body.js';
import { UnreadBodyError } from './unread-body.error.js';
import type { HttpRequest, RawRequest } from './http-request.js';
import type { MultipartBody } from './multipart-body.js';

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

  if (hasBody(raw)) refuseUnread(body, raw, type);
  else if (body === undefined || body === null) return { kind: 'none' };

  if (body instanceof Uint8Array) return { kind: 'bytes', bytes: body };
  // A JSON text that is a single string arrives as a string, too; as JSON its lone surrogates stay apart.
  if (typeof body === 'string' && !JSON_TYPE.test(type)) return { kind: 'bytes', bytes: body };
  if (type.startsWith('multipart/')) return readMultipart(request);
  return { kind: 'json', value: body };
}

/** Whether the client sent at least one byte (RFC 9112, section 6.3; RFC 9113, section 8.1). */
function hasBody(raw: RawRequest): boolean {
  if (raw.httpVersionMajor >= 2 && 'stream' in raw) return !raw.stream.endAfterHeaders;

  const { 'content-length': length, 'transfer-encoding': coding } = raw.headers;
  if (coding === undefined) return length !== undefined && Number(length) > 0;
  // Some proxies announce chunks where there are none: all of it has arrived, nobody took anything, nothing is there.
  return !(raw.complete && !raw.readableDidRead && raw.readableLength === 0);
}

function refuseUnread(body: unknown, raw: RawRequest, type: string): void {
  if (isStream(body)) throw UnreadBodyError.notParsed(type);
  if (body === undefined) throw raw.readableDidRead ? UnreadBodyError.notKept(type) : UnreadBodyError.notParsed(type);
  // Some parsers, Express 4's among them, leave `{}` or `null` for a body that they did not read.
  if (!raw.readableDidRead && isEmpty(body)) throw UnreadBodyError.notParsed(type);
}

function isEmpty(body: unknown): boolean {
  return body === null || (typeof body === 'object' && Object.keys(body).length === 0);
}

/** Of Node or of the web. A parsed document may have members of these names, but no functions. */
function isStream(body: unknown): boolean {
  const { pipe, getReader } = (body ?? {}) as { pipe?: unknown; getReader?: unknown };
  return typeof pipe === 'function' || typeof getReader === 'function';
}
