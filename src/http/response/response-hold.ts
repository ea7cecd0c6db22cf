import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { failpoint } from '../../util/failpoint.js';
import { guardHeaders, type Keeper, type OrdinaryMethods, replaceMethods, restoreMethods } from './held-methods.js';
import { applyHeaders } from '../recorded-response.js';
import type { HeaderLine } from '../../protocol/response.js';
import { assertHead, type HeadBytes, headBytes, type HeadWriting } from './head-bytes.js';
import type { HeldRun } from './held-run.js';
import { sendWhole } from './send-whole.js';
import { ignoreWrites } from './ignored-writes.js';
import { Insiders } from './insiders.js';
import { type HeldResponse, KeptResponse } from './kept-response.js';
import { showClosed, showHeadSent } from './node-response.js';
import { shieldOf } from './socket-shield.js';
import { bytesOf, callBack, callbackIn, headArguments } from './write-arguments.js';

/**
 * Holds a response back: what the framework or the handler writes to it is kept, and nothing reaches the socket until
 * it is let go. To its writers it looks like any response, headers sent and ended as they go along.
 *
 * The raw `http.ServerResponse` is the one place where every way to answer comes together, under both adapters, after
 * every interceptor, serializer and exception filter.
 *
 * A response has one hold, whatever the number of runs: an outer interceptor that runs the route again begins a new run
 * on it, and what code of a run that is over still writes goes nowhere.
 *
 * It is long because a response has many ways to be written, and each has to meet the same three questions: whose code
 * writes, was the head sent, has it ended.
 */
export class ResponseHold implements Keeper {
  private kept = new KeptResponse();
  private run: HeldRun | undefined;
  private readonly strangers: Pick<HeldRun, 'isItsCode'>[] = [];
  private ordinary: OrdinaryMethods | undefined;
  private ordinarySocket: Socket | undefined;
  private unguardHeaders: (() => void) | undefined;
  private readonly insiders: Insiders;
  /** The client has gone away, and those who watch for that were not told yet. */
  private closed = false;

  constructor(readonly response: ServerResponse) {
    this.insiders = new Insiders(response);
  }

  /** Has a run begin: what it writes is kept, and all that former runs have written is forgotten. */
  begin(run: HeldRun): void {
    if (this.ordinary === undefined) {
      this.takeHold();
    }
    if (this.run !== undefined) {
      this.disown(this.run);
    }
    this.run = run;
    this.startOver();
  }

  /** From here on what `run` still writes goes nowhere. */
  disown(run: Pick<HeldRun, 'isItsCode'>): void {
    this.strangers.push(run);
    this.unguardHeaders ??= guardHeaders(this.response, () => this.isStrangersCode());
  }

  /** Forgets what was written; the headers are the caller's affair. */
  startOver(): void {
    this.kept = new KeptResponse();
    this.insiders.startOver();
    showHeadSent(this.response, false);
  }

  /** Sends what was held; a body that outgrew the cap goes on streaming. @param marks further headers, in ASCII */
  letGo(marks: readonly HeaderLine[] = []): void {
    const { response, kept } = this;
    this.looseHold();
    failpoint('response: sending');
    if (kept.broken) {
      response.destroy();
      return;
    }
    const bytes = this.headBytes();
    response.statusCode = kept.status;
    response.statusMessage = bytes?.statusMessage ?? kept.statusMessage;
    applyHeaders(response, bytes?.headers ?? []);
    applyHeaders(response, marks);
    const body = kept.joined();
    if (!kept.ended) {
      if (response.write(body)) {
        response.emit('drain'); // its writer was told to wait
      }
    } else {
      response.strictContentLength = false; // it was looked at as it was written: Node.js 20.19.0 refuses what fits, too
      sendWhole(response, kept, body, bytes !== undefined);
    }
    this.tellClosed();
  }

  /** @throws what Node would throw when it is let go, which may be after COMMIT */
  assertSendable(): void {
    const { response, kept } = this;
    if (kept.headSent && !kept.broken) {
      assertHead(response, kept.status, kept.statusMessage);
      this.assertLength(0, kept.ended);
    }
  }

  /** The head as bytes, where that is more than ASCII. */
  headBytes(): HeadBytes | undefined {
    const { response, kept } = this;
    return kept.ended || kept.headSent ? headBytes(response, kept.head, kept.status, kept.statusMessage) : undefined;
  }

  /** Throws away what was held and lets `send` answer instead. What is written later goes nowhere. */
  replace(send: () => void): void {
    const { response } = this;
    this.looseHold();
    response.statusMessage = '';
    response.strictContentLength = false;
    this.kept = new KeptResponse();
    send();
    ignoreWrites(response);
    this.tellClosed();
  }

  /** Throws away what was held; the response is as it was before, but for its headers. */
  discard(): void {
    this.looseHold();
    this.tellClosed();
  }

  /** @internal */
  writeHead(status: number, rest: unknown[]): void {
    if (this.isStrangersCode()) {
      return;
    }
    const { response } = this;
    if (this.kept.headSent) {
      throw headersSentError();
    }
    const { message, headers } = headArguments(rest);
    response.statusCode = status;
    response.statusMessage = message ?? response.statusMessage;
    headers.forEach(([name, value]) => response.setHeader(name, value));
    this.sendHead('writeHead');
  }

  /** @internal */
  sendHead(by: HeadWriting['by']): void {
    const { kept, response } = this;
    if (kept.headSent || this.isStrangersCode()) {
      return;
    }
    if (this.isHandlersCode()) {
      assertHead(response, response.statusCode, response.statusMessage); // others would not know what to do about it
    }
    kept.headSent = true;
    kept.head.by = by;
    kept.writer = this.run!.writer();
    kept.status = response.statusCode;
    kept.statusMessage = response.statusMessage;
    // From here on Node itself refuses further headers, and tells that they were sent.
    showHeadSent(response, true);
  }

  /** @internal */
  write(chunk: unknown, encoding: unknown, callback: unknown): boolean {
    const { kept, run } = this;
    if (this.isStrangersCode()) {
      callBack([encoding, callback]);
      return true;
    }
    if (kept.ended) {
      const error = Object.assign(new Error('write after end'), { code: 'ERR_STREAM_WRITE_AFTER_END' });
      callBack([encoding, callback], error);
      return false;
    }
    const bytes = bytesOf(chunk, encoding);
    if (this.isHandlersCode()) {
      this.assertLength(bytes.length, false);
    }
    this.sendHead('write');
    this.keep(bytes, { call: 'write', kind: kindOf(chunk, bytes), encoding });
    callBack([encoding, callback]);
    if (!this.isHeld) {
      return true; // it was given up, and a writer that waits for 'drain' would wait for ever
    }
    // While the handler runs there is no way back: it may wait for this very write before it returns.
    return kept.bodyBytes <= run!.maxBodyBytes || run!.mustHoldOn();
  }

  /** @internal */
  end(chunk: unknown, encoding: unknown, callback: unknown): void {
    const { kept } = this;
    if (this.isStrangersCode()) {
      callBack([chunk, encoding, callback]);
      return;
    }
    const done = callbackIn([chunk, encoding, callback]);
    if (done !== undefined && this.isHandlersCode()) {
      process.nextTick(done); // it may wait for this before it returns
    } else if (done !== undefined) {
      kept.callbacks.push(done);
    }
    if (kept.ended) {
      return;
    }
    const bytes = chunk && typeof chunk !== 'function' ? bytesOf(chunk, encoding) : undefined;
    if (this.isHandlersCode()) {
      this.assertLength(bytes?.length ?? 0, true);
    }
    this.sendHead('end');
    if (bytes !== undefined) {
      this.keep(bytes, { call: 'end', kind: kindOf(chunk, bytes), encoding });
    }
    kept.ended = true;
    this.tellRun();
    this.insiders.tell('finish', 'close');
  }

  /** @internal */
  breakOff(): void {
    const { kept } = this;
    if (!kept.ended && !this.isStrangersCode()) {
      kept.broken = true;
      this.tell({ status: 500, body: null, bodyBytes: kept.bodyBytes, writer: kept.writer });
      this.insiders.tell('close');
    }
  }

  /** @internal */
  emit(event: string | symbol, args: unknown[]): boolean {
    const { response } = this;
    if (event !== 'close') {
      return this.ordinary!.emit.call(response, event, ...args);
    }
    this.closed = true; // a client that goes away does not cancel the operation
    showClosed(response, false);
    return true;
  }

  /** @internal */
  get hasEnded(): boolean {
    return this.kept.ended;
  }

  /** @internal */
  get isHeld(): boolean {
    return this.ordinary !== undefined;
  }

  /** @internal The handler waits for the end of a response that is sent only after it has returned. */
  listenerAdded(event: string | symbol, listener: (...args: unknown[]) => void): void {
    if ((event === 'finish' || event === 'close') && this.isHandlersCode()) {
      this.insiders.add(event, listener);
      if (this.kept.ended) {
        this.insiders.tell('finish', 'close');
      }
    }
  }

  private isHandlersCode(): boolean {
    return this.run!.isItsCode();
  }

  private isStrangersCode(): boolean {
    return this.strangers.some((run) => run.isItsCode());
  }

  /** As Node does where it was asked to. */
  private assertLength(bytes: number, isLast: boolean): void {
    const { response, kept } = this;
    const said = Number(response.getHeader('Content-Length'));
    const come = kept.bodyBytes + bytes;
    if (response.strictContentLength && (come > said || (isLast && come < said))) {
      const error = new Error(`The body has ${come} bytes, and its Content-Length says ${said}`);
      throw Object.assign(error, { code: 'ERR_HTTP_CONTENT_LENGTH_MISMATCH' });
    }
  }

  private keep(bytes: Buffer, piece: HeadWriting['first']): void {
    const { kept } = this;
    kept.head.first ??= piece;
    kept.chunks.push(bytes);
    kept.bodyBytes += bytes.length;
    const { maxBodyBytes, maxHeldBytes } = this.run!;
    if (kept.bodyBytes > maxHeldBytes && this.run!.mustHoldOn()) {
      this.run!.responseOutgrown();
    } else if (kept.bodyBytes > maxBodyBytes && !this.run!.mustHoldOn()) {
      this.tellRun();
    }
  }

  private tellRun(): void {
    const { status, bodyBytes, writer } = this.kept;
    const body = bodyBytes > this.run!.maxBodyBytes ? null : this.kept.joined();
    this.tell({ status, body, bodyBytes, writer });
  }

  private tell(response: HeldResponse): void {
    if (!this.kept.told) {
      this.kept.told = true;
      this.run!.responseEnded(response);
    }
  }

  private tellClosed(): void {
    if (this.closed) {
      const { response } = this;
      this.closed = false;
      showClosed(response, true);
      response.emit('close');
    }
  }

  private takeHold(): void {
    const { response } = this;
    this.ordinary = replaceMethods(response, this);
    this.ordinarySocket = response.req.socket;
    response.req.socket = shieldOf(response.req.socket);
  }

  private looseHold(): void {
    const { response, ordinary } = this;
    if (ordinary !== undefined) {
      this.unguardHeaders?.();
      this.unguardHeaders = undefined;
      restoreMethods(response, ordinary);
      showHeadSent(response, false);
      response.req.socket = this.ordinarySocket!;
      this.ordinary = undefined;
    }
  }
}

function kindOf(chunk: unknown, { length }: Buffer): 'text' | 'bytes' | 'nothing' {
  return length === 0 ? 'nothing' : typeof chunk === 'string' ? 'text' : 'bytes';
}

function headersSentError(): Error {
  const error = new Error('Cannot write headers after they are sent to the client');
  return Object.assign(error, { code: 'ERR_HTTP_HEADERS_SENT' });
}
