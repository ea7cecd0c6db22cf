import type { RouteOptions } from '../protocol/options.js';
import type { HeaderLine, RecordableResponse } from '../protocol/response.js';

/** Digests of the bytes that were (RFC 9110, 8.8.3; RFC 9530; RFC 3230). */
const OF_THE_FORMER_BYTES = new Set(['etag', 'content-digest', 'repr-digest', 'digest', 'content-md5']);

/** What is to be stored of a response. @throws what the option `redact` throws */
export async function keptOf(
  response: RecordableResponse,
  { store, redact }: Pick<RouteOptions, 'store' | 'redact'>,
): Promise<RecordableResponse> {
  if (!store) {
    return { ...response, headers: [], body: null };
  }
  const { status, headers, body } = response;
  if (redact === undefined || body === null) {
    return response;
  }
  const redacted = await redact({ status, headers, body });
  const kept = redacted.headers ?? headers;
  if (redacted.body === undefined) {
    return { ...response, headers: kept };
  }
  const bytes = Buffer.from(redacted.body as Buffer);
  return { status, headers: describing(kept, bytes.length), body: bytes, bodyBytes: bytes.length };
}

/** The headers of other bytes than they were made for. */
function describing(headers: readonly HeaderLine[], bytes: number): HeaderLine[] {
  return headers
    .filter(([name]) => !OF_THE_FORMER_BYTES.has(name.toLowerCase()))
    .map(([name, value]) => [name, name.toLowerCase() === 'content-length' && value !== null ? String(bytes) : value]);
}
