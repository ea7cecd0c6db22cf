import type { IncomingMessage } from 'node:http';
import type { Http2ServerRequest } from 'node:http2';

/** What the requests of Express and Fastify have in common, as far as this library looks at them. */
export interface HttpRequest {
  readonly method: string;
  readonly url: string;
  readonly originalUrl?: string;
  readonly headers: IncomingMessage['headers'];
  /** What a body parser made of the body. */
  readonly body?: unknown;
  /** Fastify wraps Node's request; Express' request is Node's own. */
  readonly raw?: RawRequest;
}

export type RawRequest = IncomingMessage | Http2ServerRequest;

export interface RequestTarget {
  readonly path: string;
  readonly query: string;
}

/** Node's own request, below the framework's. */
export function rawRequest(request: HttpRequest): RawRequest {
  return request.raw ?? (request as unknown as IncomingMessage);
}

/**
 * The path exactly as it was requested (global prefix, version and parameters included, nothing decoded) and the query
 * without its question mark. `originalUrl` is what a rewriting middleware leaves alone.
 */
export function requestTarget(request: HttpRequest): RequestTarget {
  // A proxy may send the absolute form (RFC 9112, section 3.2.2); which host answers is not part of the operation.
  const target = (request.originalUrl ?? request.url).replace(/^https?:\/\/[^/?]*/i, '');
  const mark = target.indexOf('?');
  return mark === -1 ? { path: target, query: '' } : { path: target.slice(0, mark), query: target.slice(mark + 1) };
}

/** `type/subtype` in lower case; parameters such as a charset or a multipart boundary may differ between retries. */
export function mediaType(contentType: string | undefined): string {
  return (contentType ?? '').split(';', 1)[0]!.trim().toLowerCase();
}

/**
 * The query's parameters, decoded and sorted by name; values of one name keep their order.
 *
 * Both frameworks parse queries, each in its own way, and `URLSearchParams` turns every byte that is not UTF-8 into the
 * same replacement character. So the bytes are decoded here, each to one character, and `%41` equals `A` while `%FE` and
 * `%FF` stay apart.
 */
export function sortedQuery(query: string): [name: string, value: string][] {
  return query
    .split('&')
    .filter((parameter) => parameter !== '')
    .map((parameter): [string, string] => {
      const mark = parameter.indexOf('=');
      if (mark === -1) {
        return [decodeBytes(parameter), ''];
      }
      return [decodeBytes(parameter.slice(0, mark)), decodeBytes(parameter.slice(mark + 1))];
    })
    .toSorted(([one], [other]) => (one < other ? -1 : Number(one > other)));
}

function decodeBytes(text: string): string {
  return text
    .replaceAll('+', ' ')
    .replaceAll(/%([0-9a-f]{2})/gi, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 16)));
}
