import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { gzipSync } from 'node:zlib';

type Next = () => void;
type Middleware = (request: IncomingMessage, response: ServerResponse, next: Next) => void;

export let requests = 0;

/** What runs before the route and differs from one request to the next. */
export const ownHeaders: Middleware = (_, response, next) => {
  requests++;
  response.setHeader('X-Request-Id', `request-${requests}`);
  response.setHeader('X-RateLimit-Remaining', String(1000 - requests));
  response.setHeader('Set-Cookie', `session=${requests}`);
  response.setHeader('X-Changed', `by middleware ${requests}`);
  response.setHeader('X-Removed', `by middleware ${requests}`);
  response.setHeader('X-Extended', 'by middleware');
  next();
};

/** In essence what `compression` and `on-headers` do: a head that is completed, and a body that is encoded, on the way. */
export const compressing: Middleware = (request, response, next) => {
  if (request.headers['x-compress'] !== undefined) {
    const { writeHead, end } = response;
    const accepted = /gzip/.test(String(request.headers['accept-encoding']));
    response.writeHead = ((status: number, { 'content-length': length, ...headers }: OutgoingHttpHeaders = {}) => {
      response.writeHead = writeHead;
      response.setHeader('X-Seen-Status', String(status));
      if (accepted) {
        response.setHeader('Content-Encoding', 'gzip');
        response.removeHeader('Content-Length');
      }
      return writeHead.call(
        response,
        status,
        accepted || length === undefined ? headers : { 'content-length': length, ...headers },
      );
    }) as typeof writeHead;
    const written: Buffer[] = [];
    if (accepted) {
      response.write = ((chunk: Buffer | string) => written.push(Buffer.from(chunk)) > 0) as typeof response.write; // as Fastify 4 does
    }
    response.end = ((chunk?: Buffer | string | null) => {
      if (!response.headersSent) {
        response.writeHead(response.statusCode);
      }
      const body = Buffer.concat([...written, Buffer.from(chunk ?? '')]);
      return end.call(response, accepted ? gzipSync(body) : chunk, 'utf8');
    }) as typeof end;
  }
  next();
};

/** What middleware does that has something to save before the response is over, a session for instance. */
export const saving: Middleware = (request, response, next) => {
  if (request.headers['x-saving'] !== undefined) {
    const { end } = response;
    response.end = ((...args: Parameters<typeof end>) => {
      setImmediate(() => end.apply(response, args));
      return response;
    }) as typeof end;
  }
  next();
};
