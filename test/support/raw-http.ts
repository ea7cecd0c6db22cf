import { once } from 'node:events';
import { connect } from 'node:net';

/**
 * An HTTP/1.1 client over a bare socket, because it is bytes that the library promises: `node:http` and `fetch` join
 * repeated header lines, change the case of names and hide the framing.
 */

export interface RawRequest {
  method: string;
  path: string;
  /**
   * Sent as given. `Host`, `Connection: close` and the `Content-Length` of the body are added where they are missing.
   */
  headers?: readonly (readonly [name: string, value: string])[];
  /** May be shorter than a `Content-Length` given by hand: a request that is never complete. */
  body?: Buffer | string;
  /** @default 10000 */
  timeoutMs?: number;
}

export interface RawResponse {
  statusLine: string;
  status: number;
  /** As on the wire: in order, in their own case, repeated lines kept. */
  headerLines: string[];
  /** Without the framing of a chunked body. */
  body: Buffer;
  /** All that was received. */
  raw: Buffer;
}

export interface OpenRequest {
  /** Rejects when the answer is malformed, is late, or breaks off. Need not be awaited. */
  response: Promise<RawResponse>;
  /** The client goes away, whatever has arrived by then. */
  destroy(): void;
}

export async function rawRequest(port: number, request: RawRequest): Promise<RawResponse> {
  const { response } = await openRequest(port, request);
  return response;
}

/** Resolves once the request is on its way. */
export async function openRequest(port: number, request: RawRequest): Promise<OpenRequest> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  await once(socket, 'connect');

  const response = new Promise<RawResponse>((resolve, reject) => {
    let received = Buffer.alloc(0);
    const fail = (reason: string, cause?: unknown) => {
      const soFar = JSON.stringify(received.toString('latin1'));
      const what = `${request.method} ${request.path}: ${reason}. Received ${received.length} bytes: ${soFar}`;
      reject(new Error(what, { cause }));
    };
    const timeoutMs = request.timeoutMs ?? 10_000;
    const timer = setTimeout(() => socket.destroy(new Error(`No complete answer within ${timeoutMs} ms`)), timeoutMs);

    const parse = (ended: boolean) => {
      try {
        const parsed = parseResponse(received, request.method, ended);
        if (!parsed) return;
        resolve(parsed);
        socket.destroy();
      } catch (error) {
        fail('The answer is no HTTP/1.1', error);
        socket.destroy();
      }
    };
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      parse(false);
    });
    socket.on('end', () => parse(true));
    socket.on('error', (error) => fail(error.message, error));
    socket.on('close', () => {
      clearTimeout(timer);
      fail('The connection was closed before the answer was complete');
    });
  });
  response.catch(() => {}); // A test that destroys the request has no use for the rejection.

  await new Promise<void>((resolve) => socket.write(serialize(port, request), () => resolve()));
  return { response, destroy: () => socket.destroy() };
}

/** Leaves out what differs from one answer to the next whatever the server does. */
export function withoutVolatile(headerLines: readonly string[]): string[] {
  return headerLines.filter((line) => !/^(date|connection|keep-alive):/i.test(line));
}

function serialize(port: number, { method, path, headers = [], body = '' }: RawRequest): Buffer {
  const content = Buffer.from(body);
  const names = new Set(headers.map(([name]) => name.toLowerCase()));
  const framed = names.has('content-length') || names.has('transfer-encoding');
  const lines = [
    `${method} ${path} HTTP/1.1`,
    ...(names.has('host') ? [] : [`Host: 127.0.0.1:${port}`]),
    ...(names.has('connection') ? [] : ['Connection: close']),
    ...headers.map(([name, value]) => `${name}: ${value}`),
    ...(framed || content.length === 0 ? [] : [`Content-Length: ${content.length}`]),
  ];
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), content]);
}

/** Undefined while the answer is incomplete. `ended` says that no more is to come. */
function parseResponse(raw: Buffer, method: string, ended: boolean): RawResponse | undefined {
  let start = 0;
  for (;;) {
    const headEnd = raw.indexOf('\r\n\r\n', start);
    if (headEnd < 0) return undefined;
    const [statusLine = '', ...headerLines] = raw.toString('latin1', start, headEnd).split('\r\n');
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(statusLine)?.[1] ?? fault(`Status line ${statusLine}`));
    start = headEnd + 4;
    if (status < 200) continue; // 100 Continue: the real answer follows.

    const framing = method === 'HEAD' || status === 204 || status === 304 ? 0 : contentFraming(headerLines);
    const content = readContent(raw.subarray(start), framing, ended);
    if (!content) return undefined;
    const surplus = raw.length - start - content.length;
    if (surplus > 0) fault(`${surplus} bytes follow the end of the message`);
    return { statusLine, status, headerLines, body: content.body, raw };
  }
}

/** A length in bytes, or how else the end of the content is found. */
type Framing = number | 'chunked' | 'close';

function contentFraming(headerLines: readonly string[]): Framing {
  const value = (name: string) => new RegExp(`^${name}:\\s*(.*?)\\s*$`, 'im').exec(headerLines.join('\n'))?.[1];
  if (value('transfer-encoding')?.toLowerCase() === 'chunked') return 'chunked';
  const length = value('content-length');
  return length === undefined ? 'close' : Number(length);
}

interface Content {
  body: Buffer;
  /** On the wire. */
  length: number;
}

function readContent(bytes: Buffer, framing: Framing, ended: boolean): Content | undefined {
  if (framing === 'chunked') return readChunks(bytes);
  if (framing === 'close') return ended ? { body: bytes, length: bytes.length } : undefined;
  return bytes.length < framing ? undefined : { body: bytes.subarray(0, framing), length: framing };
}

function readChunks(bytes: Buffer): Content | undefined {
  const chunks: Buffer[] = [];
  let position = 0;
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', position);
    if (lineEnd < 0) return undefined;
    const line = bytes.toString('latin1', position, lineEnd);
    const size = /^[0-9a-f]+/i.test(line) ? Number.parseInt(line, 16) : fault(`Chunk size ${line}`);
    const start = lineEnd + 2;
    if (size === 0) {
      // Trailers, if any, then an empty line: together they end in two line breaks, the first of which may be this line's.
      const end = bytes.indexOf('\r\n\r\n', lineEnd);
      return end < 0 ? undefined : { body: Buffer.concat(chunks), length: end + 4 };
    }
    if (bytes.length < start + size + 2) return undefined;
    chunks.push(bytes.subarray(start, start + size));
    position = start + size + 2;
  }
}

function fault(what: string): never {
  throw new Error(what);
}
