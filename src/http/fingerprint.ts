import { createHash, createHmac, hash, type Hash } from 'node:crypto';
import { FINGERPRINT_VERSION } from '../protocol/constants.js';
import { writeCanonicalJson } from './canonical-json.js';
import { type HttpRequest, mediaType, requestTarget, sortedQuery } from './http-request.js';
import { type BodyFields, selectFields } from './body-fields.js';
import { readRequestBody } from './request-body.js';

/**
 * What a retry must repeat, as a SHA-256: method, path, query, media type and body. Headers do not count, and neither
 * does anything that a client or a proxy may spell in several ways: order of query parameters and JSON members, percent
 * and JSON escapes, white space, charset and multipart boundary, `Content-Encoding`. Express and Fastify give the same.
 *
 * What counts as the body is what the parsers made of it, which is what the handler gets: the two frameworks differ on
 * brackets in the field names of urlencoded and multipart forms (`a[b]=1`), and so do the fingerprints.
 *
 * @param request Express' or Fastify's
 * @param fields which of the body's fields count; the fingerprint is that of the request without the others
 * @throws UnreadBodyError when the body is not there to be read
 */
export async function fingerprintRequest(request: unknown, fields?: BodyFields): Promise<Buffer> {
  const httpRequest = request as HttpRequest;
  const { path, query } = requestTarget(httpRequest);
  const type = mediaType(httpRequest.headers['content-type']);
  const read = await readRequestBody(httpRequest, type);
  const body = fields === undefined ? read : selectFields(read, fields);
  const files = body.kind === 'multipart' ? body.files : [];
  const digest = digestOf(httpRequest.method, path, [sortedQuery(query), type, body.kind, files]);
  switch (body.kind) {
    case 'none':
      break;
    case 'bytes':
      digest.update(body.bytes);
      break;
    case 'json':
      updateWithJson(digest, body.value);
      break;
    case 'multipart':
      updateWithJson(digest, body.fields);
      break;
  }
  return digest.end();
}

/**
 * The fingerprint of what the application's own `fingerprint` resolver returned. The value takes the place of query,
 * media type and body; method and path count all the same, since the same key on another endpoint is never a retry.
 *
 * @param value bytes, or anything that can be written as JSON; order of members does not matter
 */
export function fingerprintOf(value: unknown, request: unknown): Buffer {
  if (value === undefined || typeof value === 'function' || typeof value === 'symbol') {
    throw new TypeError(
      'The `fingerprint` resolver returned undefined, a function or a symbol. Return what a retry must repeat, or null if method and path suffice.',
    );
  }
  const httpRequest = request as HttpRequest;
  const { path } = requestTarget(httpRequest);
  const isBytes = value instanceof Uint8Array;
  const digest = digestOf(httpRequest.method, path, [isBytes ? 'resolved bytes' : 'resolved JSON']);
  if (isBytes) {
    digest.update(value);
  } else {
    updateWithJson(digest, value);
  }
  return digest.end();
}

/** What nobody can find by trying bodies who does not have the secret. */
export function keyedFingerprint(plain: Buffer, secret: string): Buffer {
  return createHmac('sha256', secret).update(plain).digest();
}

/**
 * A JSON array tells by itself where it ends and where each of its strings does. So nothing that a client sends can
 * move from one component to the next, and exactly one further component, the body, may follow without a length.
 */
function digestOf(method: string, path: string, components: readonly unknown[]): Digest {
  return new Digest(
    JSON.stringify(['nestjs-idempotency', FINGERPRINT_VERSION, method.toUpperCase(), path, ...components]),
  );
}

function updateWithJson(digest: Digest, value: unknown): void {
  writeCanonicalJson(value, (chunk) => digest.update(chunk));
}

/** A SHA-256 in one call where there is little to hash: by profile, an object for it costs a request 10 µs more. */
class Digest {
  private hash: Hash | undefined;

  constructor(private text: string) {}

  update(part: string | Uint8Array): void {
    if (this.hash === undefined && typeof part === 'string' && this.text.length + part.length <= MAX_AT_ONCE) {
      this.text += part;
    } else {
      this.hash ??= createHash('sha256').update(this.text);
      this.hash.update(part);
    }
  }

  end(): Buffer {
    return this.hash?.digest() ?? hash('sha256', this.text, 'buffer');
  }
}

/** In UTF-16 code units. */
const MAX_AT_ONCE = 32_768;
