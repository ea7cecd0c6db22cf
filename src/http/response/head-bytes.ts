import { type OutgoingHttpHeader, ServerResponse } from 'node:http';
import type { HeaderLine } from '../../protocol/response.js';
import { rawHeaderNames } from '../recorded-response.js';

/** How a head was given to Node, which decides in what bytes it goes out where it is not all ASCII. */
export interface HeadWriting {
  /** What has completed it. */
  by: 'writeHead' | 'flushHeaders' | 'write' | 'end';
  /** The first piece of the body: in one packet with the head, both take the encoding of the piece. */
  first?: { call: 'write' | 'end'; kind: 'text' | 'bytes' | 'nothing'; encoding: unknown };
}

/** A head whose every character is a byte that Node would have sent. */
export interface HeadBytes {
  /** Those that are not all ASCII. */
  readonly headers: HeaderLine[];
  readonly statusMessage: string;
}

const NOT_ASCII = /[^\0-\x7f]/;
const PRINTABLE = /^[\t\x20-\x7e]*$/;

function isAscii(value: OutgoingHttpHeader | undefined): boolean {
  return !NOT_ASCII.test(Array.isArray(value) ? value.join('') : String(value ?? ''));
}

/** Whether all of a head goes out the same however it is given to Node. */
export function isHeadAscii(response: ServerResponse, statusMessage = ''): boolean {
  return isAscii(statusMessage) && response.getHeaderNames().every((name) => isAscii(response.getHeader(name)));
}

/**
 * What Node would have made of a head that was not held back: Node itself is asked, by the same calls on a response that
 * has no connection, since its versions differ. Nothing where it is all ASCII.
 */
export function headBytes(
  response: ServerResponse,
  { by, first }: HeadWriting,
  status: number,
  statusMessage: string,
): HeadBytes | undefined {
  if (isHeadAscii(response, statusMessage)) {
    return undefined;
  }
  const probe = probeOf(response, status, statusMessage);
  if (by === 'writeHead') {
    probe.writeHead(status);
  } else if (by === 'flushHeaders') {
    probe.flushHeaders();
  }
  const { call, kind, encoding } = first ?? { call: 'end', kind: 'nothing', encoding: undefined };
  const piece = kind === 'text' ? pieceIn(encoding) : Buffer.from('x');
  if (kind === 'nothing') {
    probe.end();
  } else {
    probe[call](piece, encoding as BufferEncoding);
  }
  const [statusLine = '', ...lines] = sentBy(probe).split('\r\n\r\n')[0]!.split('\r\n');
  return {
    headers: lines
      .map((line): HeaderLine => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)])
      .filter(([name]) => !isAscii(response.getHeader(name))),
    statusMessage: statusLine.split(' ').slice(2).join(' '),
  };
}

/** @throws what Node would throw for such a head, once it is sent */
export function assertHead(response: ServerResponse, status: number, statusMessage = ''): void {
  const isUsual = status >= 100 && status <= 999 && PRINTABLE.test(statusMessage);
  if (!isUsual || response.hasHeader('Trailer')) {
    probeOf(response, status, statusMessage).writeHead(status);
  }
}

/** A response with the same head, and without a connection. */
function probeOf(response: ServerResponse, statusCode: number, statusMessage: string): ServerResponse {
  const probe = new ServerResponse(response.req);
  for (const name of rawHeaderNames(response)) {
    probe.setHeader(name, response.getHeader(name)!);
  }
  if (probe.hasHeader('Content-Length')) {
    probe.setHeader('Content-Length', '1');
  }
  return Object.assign(probe, { statusCode, statusMessage });
}

/** One byte, in whatever encoding it is read. */
function pieceIn(encoding: unknown): string {
  return encoding === 'hex' ? '78' : 'eA==';
}

/** What a response without a connection keeps for one, as characters that are bytes. */
function sentBy(probe: ServerResponse): string {
  const { outputData } = probe as unknown as { outputData: { data: string | Buffer; encoding?: BufferEncoding }[] };
  return outputData
    .map(({ data, encoding }) => (typeof data === 'string' ? Buffer.from(data, encoding) : data).toString('latin1'))
    .join('');
}

/** Has the head go out as bytes, in whatever way the body follows: Node then adds no length by itself. */
export function sendHeadApart(response: ServerResponse, bodyBytes: number): void {
  const mayHaveLength = response.statusCode !== 204 && response.statusCode !== 304;
  if (mayHaveLength && !response.hasHeader('Content-Length')) {
    response.setHeader('Content-Length', bodyBytes);
  }
  response.writeHead(response.statusCode);
}
