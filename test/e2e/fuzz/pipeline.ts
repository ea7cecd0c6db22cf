import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { headerValue, type ParsedKey, parseIdempotencyKey } from '../../../src/http/idempotency-key.js';

/** A request's header lines as bytes on the wire, and what they say. */
export interface HeaderCase {
  lines: string[];
  name: string;
  expected: ParsedKey;
  /** Node itself refuses it, and closes the connection: nothing can follow on it. */
  refusedByNode: boolean;
}

/** What Node takes for a header's value, and how much of all headers together. */
const ILLEGAL_BYTE = /[\0-\x08\x0a-\x1f\x7f]/; // oxlint-disable-line no-control-regex -- it is about these
const MAX_HEAD_BYTES = 16_000;

export function headerCase(values: string[], index: number): HeaderCase {
  const lines = values.map((value) => Buffer.from(value.replaceAll(/[\r\n]/g, '')).toString('latin1'));
  const arriving = lines.map((line) => line.replaceAll(/^[ \t]+|[ \t]+$/g, ''));
  const name = ['Idempotency-Key', 'idempotency-key', 'IDEMPOTENCY-KEY'][index % 3]!;
  return {
    lines,
    name,
    expected: parseIdempotencyKey(
      headerValue(
        {
          headers: arriving.length === 0 ? {} : { 'idempotency-key': arriving.join(', ') },
          rawHeaders: arriving.flatMap((value) => [name, value]),
        },
        'Idempotency-Key',
      ),
    ),
    refusedByNode: lines.some((line) => ILLEGAL_BYTE.test(line)) || lines.join('').length > MAX_HEAD_BYTES,
  };
}

export function headerRequest({ lines, name }: HeaderCase): Buffer {
  const head = ['POST /keys HTTP/1.1', 'Host: localhost', 'Content-Length: 2', 'Content-Type: application/json'];
  return Buffer.from(`${[...head, ...lines.map((line) => `${name}: ${line}`)].join('\r\n')}\r\n\r\n{}`, 'latin1');
}

export interface Reply {
  status: number;
  head: string;
  body: string;
}

/** Sends requests one behind the other on one connection, without waiting for answers. */
export class Pipeline {
  private received = '';
  private failed: Error | undefined;
  private wake: () => void = () => undefined;

  private constructor(private readonly socket: Socket) {
    socket.setEncoding('latin1');
    socket.setTimeout(10_000, () => socket.destroy(new Error('No answer within 10 s')));
    socket.on('data', (chunk: string) => {
      this.received += chunk;
      this.wake();
    });
    socket.on('error', (error) => (this.failed = error));
    socket.on('close', () => {
      this.failed ??= new Error('The server closed the connection');
      this.wake();
    });
  }

  static async open(port: number): Promise<Pipeline> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    await once(socket, 'connect');
    return new Pipeline(socket);
  }

  async exchange(requests: Buffer[]): Promise<Reply[]> {
    this.socket.write(Buffer.concat(requests));
    const replies: Reply[] = [];
    while (replies.length < requests.length) {
      const reply = this.next();
      if (reply) replies.push(reply);
      else if (this.failed)
        throw new Error(`After ${replies.length} of ${requests.length} answers`, { cause: this.failed });
      else await new Promise<void>((wake) => (this.wake = wake));
    }
    return replies;
  }

  /** All of an answer that ends with the connection. */
  async rest(request: Buffer): Promise<string> {
    this.socket.write(request);
    while (!this.failed) await new Promise<void>((wake) => (this.wake = wake));
    return this.received;
  }

  close(): void {
    this.socket.destroy();
  }

  private next(): Reply | undefined {
    const end = this.received.indexOf('\r\n\r\n');
    if (end < 0) return undefined;
    const head = this.received.slice(0, end);
    const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1]);
    if (Number.isNaN(length)) throw new Error(`An answer without a length: ${head}`);
    if (this.received.length < end + 4 + length) return undefined;
    const body = this.received.slice(end + 4, end + 4 + length);
    this.received = this.received.slice(end + 4 + length);
    return { status: Number(head.slice(9, 12)), head, body };
  }
}
