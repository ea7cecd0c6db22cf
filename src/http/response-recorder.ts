import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { deferred } from '../deferred.js';
import {
  callBack,
  callbackIn,
  hideClosing,
  ignoreWrites,
  type StandIn,
  type Takeover,
  takeOver,
  type WriteCallback,
} from './response-stand-in.js';

/** The final bytes of a response, before any of them is sent. */
export interface HeldResponse {
  status: number;
  /** All of the body, or null when it grew beyond the cap. */
  body: Buffer | null;
  bodyBytes: number;
  /** True when code of the handler itself wrote it (`@Res()`), rather than the framework with the handler's value. */
  byHandler: boolean;
}

export interface ResponseRecorderOptions {
  maxBodyBytes: number;
  /** Whether the running code was started by the handler. */
  isHandlersCode: () => boolean;
  /** Whether the handler has not returned yet. */
  isHandlerRunning: () => boolean;
}

type HeadersArgument = OutgoingHttpHeaders | OutgoingHttpHeader[];

/**
 * Holds a response back: what the framework or the handler writes to it is kept, and nothing reaches the socket until
 * it is let go. To its writers it looks like any response, headers sent and ended as they go along.
 */
export class ResponseRecorder implements StandIn {
  headersSent = false;
  writableEnded = false;
  readonly closed = false;
  isOver = false;
  private readonly settling = deferred<HeldResponse>();
  private readonly chunks: Buffer[] = [];
  private readonly callbacks: WriteCallback[] = [];
  /** The whole body, where it was written as one text. */
  private text: { chunk: string; encoding: BufferEncoding } | undefined;
  private bodyBytes = 0;
  private byHandler = false;
  private isClientGone = false;
  private broken = false;
  private status = 0;
  private statusMessage = '';
  private readonly takeover: Takeover;
  private readonly showClosing: () => void;

  constructor(
    private readonly response: ServerResponse,
    private readonly options: ResponseRecorderOptions,
  ) {
    this.takeover = takeOver(response, this, true);
    this.showClosing = hideClosing(response);
  }

  /** The response's end, or the moment its body outgrew the cap. */
  get settled(): Promise<HeldResponse> {
    return this.settling.promise;
  }

  /** Sends what was held; a body that outgrew the cap goes on streaming. */
  letGo(): void {
    const { response } = this;
    this.restore();
    if (this.broken) {
      response.destroy();
      return;
    }
    response.statusCode = this.status;
    if (response.statusMessage !== this.statusMessage) {
      response.statusMessage = this.statusMessage;
    }
    if (this.writableEnded) {
      // The whole body is at hand: Node adds its length.
      if (response.hasHeader('Transfer-Encoding')) {
        response.removeHeader('Transfer-Encoding'); // only then: Node takes it for a wish to have none at all
      }
      const done = (): void => this.callbacks.forEach((callback) => callback());
      const { text } = this;
      // A text goes out in one piece with the head, bytes in one of their own.
      if (text === undefined) {
        response.end(this.body(), done);
      } else {
        response.end(text.chunk, text.encoding, done);
      }
    } else if (response.write(this.body())) {
      response.emit('drain'); // its writer was told to wait
    }
    this.tellClosed();
  }

  /** Throws away what was held and lets `send` answer instead. What is written later goes nowhere. */
  replace(send: (response: ServerResponse) => void): void {
    const { response } = this;
    this.restore();
    response.statusMessage = '';
    send(response);
    ignoreWrites(response);
    this.tellClosed();
  }

  /** Throws away what was held; the response is as it was before, but for its headers. */
  discard(): void {
    this.restore();
    this.tellClosed();
  }

  setHeader(...args: unknown[]): ServerResponse {
    return this.change('setHeader', args);
  }

  setHeaders(...args: unknown[]): ServerResponse {
    return this.change('setHeaders', args);
  }

  appendHeader(...args: unknown[]): ServerResponse {
    return this.change('appendHeader', args);
  }

  removeHeader(...args: unknown[]): ServerResponse {
    return this.change('removeHeader', args);
  }

  writeHead(status: unknown, ...rest: unknown[]): ServerResponse {
    const message = typeof rest[0] === 'string' ? rest[0] : undefined;
    const headers = rest[message === undefined && rest.length < 2 ? 0 : 1] as HeadersArgument | undefined;
    if (this.headersSent) {
      throw headersSentError('write');
    }
    const { response, takeover } = this;
    response.statusCode = status as number;
    response.statusMessage = message ?? response.statusMessage;
    headerEntries(headers).forEach((entry) => takeover.callOriginal('setHeader', entry));
    this.flushHeaders();
    return response;
  }

  flushHeaders(): void {
    if (!this.headersSent) {
      this.headersSent = true;
      this.byHandler = this.options.isHandlersCode();
      this.status = this.response.statusCode;
      this.statusMessage = this.response.statusMessage;
    }
  }

  write(chunk: unknown, encoding?: unknown, callback?: unknown): boolean {
    if (this.writableEnded) {
      const error = Object.assign(new Error('write after end'), { code: 'ERR_STREAM_WRITE_AFTER_END' });
      callBack([encoding, callback], error);
      return false;
    }
    this.flushHeaders();
    this.keep(chunk, encoding);
    callBack([encoding, callback]);
    // While the handler runs there is no way back: it may wait for this very write before it returns.
    return this.bodyBytes <= this.options.maxBodyBytes || this.options.isHandlerRunning();
  }

  end(...args: unknown[]): ServerResponse {
    const [chunk, encoding] = args;
    const done = callbackIn(args);
    if (done !== undefined) {
      this.callbacks.push(done);
    }
    if (!this.writableEnded) {
      this.flushHeaders();
      if (typeof chunk === 'string' && this.chunks.length === 0) {
        this.text = { chunk, encoding: encodingOf(encoding) };
      }
      if (chunk !== null && chunk !== undefined && typeof chunk !== 'function') {
        this.keep(chunk, encoding);
      }
      this.writableEnded = true;
      this.settle();
    }
    return this.response;
  }

  /** Its writer has given the response up, for a source that failed half-way: it will never end. */
  destroy(): ServerResponse {
    if (!this.writableEnded) {
      this.broken = true;
      const { bodyBytes, byHandler } = this;
      this.settling.resolve({ status: 500, body: null, bodyBytes, byHandler });
    }
    return this.response;
  }

  emit(event: unknown, ...args: unknown[]): boolean {
    const { response, takeover } = this;
    if (event === 'close') {
      this.isClientGone = true; // a client that goes away does not cancel the operation
      response.destroyed = false;
      return true;
    }
    return takeover.callOriginal('emit', [event, ...args]) as boolean;
  }

  private restore(): void {
    this.takeover.undo();
    this.showClosing();
  }

  /** Those who watch for a client that goes away were not told yet. */
  private tellClosed(): void {
    if (this.isClientGone) {
      this.response.destroyed = true;
      this.response.emit('close');
    }
  }

  private change(
    method: 'setHeader' | 'setHeaders' | 'appendHeader' | 'removeHeader',
    args: unknown[],
  ): ServerResponse {
    if (this.headersSent) {
      throw headersSentError('set');
    }
    this.takeover.callOriginal(method, args);
    return this.response;
  }

  private keep(chunk: unknown, encoding: unknown): void {
    const bytes =
      typeof chunk === 'string' ? Buffer.from(chunk, encodingOf(encoding)) : Buffer.from(chunk as Uint8Array); // a copy: the writer may use its buffer again
    this.chunks.push(bytes);
    this.bodyBytes += bytes.length;
    if (this.bodyBytes > this.options.maxBodyBytes) {
      this.settle();
    }
  }

  private settle(): void {
    const { status, bodyBytes, byHandler } = this;
    const body = bodyBytes > this.options.maxBodyBytes ? null : this.body();
    this.settling.resolve({ status, body, bodyBytes, byHandler });
  }

  /** What was written so far, in one piece; joined once. */
  private body(): Buffer {
    if (this.chunks.length !== 1) {
      this.chunks.splice(0, Infinity, Buffer.concat(this.chunks));
    }
    return this.chunks[0]!;
  }
}

function encodingOf(argument: unknown): BufferEncoding {
  return typeof argument === 'string' ? (argument as BufferEncoding) : 'utf8';
}

function headersSentError(verb: 'set' | 'write'): Error {
  const error = new Error(`Cannot ${verb} headers after they are sent to the client`);
  return Object.assign(error, { code: 'ERR_HTTP_HEADERS_SENT' });
}

function headerEntries(headers: HeadersArgument | undefined): [string, string | number | readonly string[]][] {
  if (headers === undefined || headers === null) {
    return [];
  }
  if (!Array.isArray(headers)) {
    return Object.entries(headers).filter(
      (entry): entry is [string, string | number | string[]] => entry[1] !== undefined,
    );
  }
  // [name, value, name, value, ...] or [[name, value], ...], a value being one line or several of them. A name that
  // comes again, in whatever case, is a line of its own.
  const pairs = Array.isArray(headers[0])
    ? headers
    : headers.flatMap((name, i) => (i % 2 ? [] : [[name, headers[i + 1]]]));
  const byName = new Map<string, [name: string, lines: string[]]>();
  for (const [name, value] of pairs as [name: string, value: string | number | readonly string[]][]) {
    const entry = byName.get(name.toLowerCase()) ?? [name, []];
    byName.set(name.toLowerCase(), [entry[0], [...entry[1], ...[value].flat().map(String)]]);
  }
  return [...byName.values()].map(([name, lines]) => [name, lines.length === 1 ? lines[0]! : lines]);
}
