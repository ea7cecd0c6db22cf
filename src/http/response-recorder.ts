import { type OutgoingHttpHeader, type OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { deferred } from '../deferred.js';

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
  /** Whether the running code is another handler's, which must not write to this response: it is silenced. */
  isOthersCode?: () => boolean;
}

type WriteCallback = (error?: Error | null) => void;
type HeadersArgument = OutgoingHttpHeaders | OutgoingHttpHeader[];

/**
 * Holds a response back: what the framework or the handler writes to it is kept, and nothing reaches the socket until
 * it is let go. To its writers it looks like any response, headers sent and ended as they go along.
 *
 * The raw `http.ServerResponse` is the one place where every way to answer comes together, under both adapters, after
 * every interceptor, serializer and exception filter. Its methods are replaced on the object itself, so that what
 * outer middleware put there before (compression, on-headers) still runs, when the response is let go.
 */
export class ResponseRecorder {
  /** The response's end, or the moment its body outgrew the cap. */
  readonly settled: Promise<HeldResponse>;
  private readonly settling = deferred<HeldResponse>();

  private readonly chunks: Buffer[] = [];
  private readonly callbacks: WriteCallback[] = [];
  private bodyBytes = 0;
  private headSent = false;
  private ended = false;
  private byHandler = false;
  private closed = false;
  private broken = false;
  private status = 0;
  private statusMessage = '';
  private readonly restore: () => void;

  constructor(
    readonly response: ServerResponse,
    private readonly options: ResponseRecorderOptions,
  ) {
    this.settled = this.settling.promise;
    const { req } = response;
    const restoreMethods = replaceMethods(response, this.heldMethods());
    const restoreState = replaceState(response, {
      headersSent: () => this.headSent,
      writableEnded: () => this.ended,
      closed: () => false,
      // Not `finished`: by that Node tells an idle connection, and closes it when the server shuts down.
    });
    const { socket } = req;
    req.socket = shieldOf(socket);
    this.restore = () => {
      restoreMethods();
      restoreState();
      req.socket = socket;
    };
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
    response.statusMessage = this.statusMessage;
    const body = this.joined();
    if (this.ended) {
      // The whole body is at hand: Node adds its length.
      if (response.hasHeader('Transfer-Encoding')) {
        response.removeHeader('Transfer-Encoding'); // only then: Node takes it for a wish to have none at all
      }
      response.end(body, () => this.callbacks.forEach((callback) => callback()));
    } else if (response.write(body)) {
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

  /**
   * Throws away what was held; the response is as it was before, but for its headers.
   *
   * @returns what tells of a client that has gone away meanwhile, for when the response is in the next one's hands
   */
  discard(): () => void {
    this.restore();
    return () => this.tellClosed();
  }

  /** Those who watch for a client that goes away were not told yet. */
  private tellClosed(): void {
    if (this.closed) {
      this.response.destroyed = true;
      this.response.emit('close');
    }
  }

  private heldMethods(): Methods {
    const { isOthersCode } = this.options;
    const methods = this.methodsOfHandler();
    return isOthersCode === undefined ? methods : silencedFor(isOthersCode, this.response, methods);
  }

  private methodsOfHandler(): Methods {
    const { response } = this;
    const setHeader = response.setHeader.bind(response);
    const emit = response.emit.bind(response);
    const guarded = (name: 'setHeader' | 'appendHeader' | 'removeHeader' | 'setHeaders') => {
      const original = response[name] as (...args: unknown[]) => unknown;
      return (...args: unknown[]): unknown => {
        if (this.headSent) {
          throw headersSentError('set');
        }
        original.apply(response, args);
        return response;
      };
    };
    return {
      setHeader: guarded('setHeader'),
      setHeaders: guarded('setHeaders'),
      appendHeader: guarded('appendHeader'),
      removeHeader: guarded('removeHeader'),
      writeHead: (status: number, ...rest: unknown[]) => {
        const message = typeof rest[0] === 'string' ? rest[0] : undefined;
        const headers = rest[message === undefined && rest.length < 2 ? 0 : 1] as HeadersArgument | undefined;
        this.sendHead(() => {
          response.statusCode = status;
          response.statusMessage = message ?? response.statusMessage;
          headerEntries(headers).forEach(([name, value]) => setHeader(name, value));
        });
        return response;
      },
      flushHeaders: () => this.sendHead(),
      write: (chunk: unknown, encoding?: unknown, callback?: unknown) => this.write(chunk, encoding, callback),
      end: (chunk?: unknown, encoding?: unknown, callback?: unknown) => {
        this.end(chunk, encoding, callback);
        return response;
      },
      destroy: () => {
        this.breakOff();
        return response;
      },
      emit: (event: string | symbol, ...args: unknown[]) => {
        if (event === 'close') {
          this.closed = true; // a client that goes away does not cancel the operation
          response.destroyed = false;
          return true;
        }
        return emit(event, ...args);
      },
    };
  }

  /** Its writer has given the response up, for a source that failed half-way: it will never end. */
  private breakOff(): void {
    if (!this.ended) {
      this.broken = true;
      const { bodyBytes, byHandler } = this;
      this.settling.resolve({ status: 500, body: null, bodyBytes, byHandler });
    }
  }

  private sendHead(prepare?: () => void): void {
    if (this.headSent) {
      if (prepare !== undefined) {
        throw headersSentError('write');
      }
      return;
    }
    prepare?.();
    this.headSent = true;
    this.byHandler = this.options.isHandlersCode();
    this.status = this.response.statusCode;
    this.statusMessage = this.response.statusMessage;
  }

  private write(chunk: unknown, encoding: unknown, callback: unknown): boolean {
    if (this.ended) {
      const error = Object.assign(new Error('write after end'), { code: 'ERR_STREAM_WRITE_AFTER_END' });
      callBack([encoding, callback], error);
      return false;
    }
    this.sendHead();
    this.keep(chunk, encoding);
    callBack([encoding, callback]);
    // While the handler runs there is no way back: it may wait for this very write before it returns.
    return this.bodyBytes <= this.options.maxBodyBytes || this.options.isHandlerRunning();
  }

  private end(chunk: unknown, encoding: unknown, callback: unknown): void {
    const done = callbackIn([chunk, encoding, callback]);
    if (done !== undefined) {
      this.callbacks.push(done);
    }
    if (this.ended) {
      return;
    }
    this.sendHead();
    if (chunk !== null && chunk !== undefined && typeof chunk !== 'function') {
      this.keep(chunk, encoding);
    }
    this.ended = true;
    this.resolve();
  }

  private keep(chunk: unknown, encoding: unknown): void {
    const bytes =
      typeof chunk === 'string'
        ? Buffer.from(chunk, typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8')
        : Buffer.from(chunk as Uint8Array); // a copy: the writer may use its buffer again
    this.chunks.push(bytes);
    this.bodyBytes += bytes.length;
    if (this.bodyBytes > this.options.maxBodyBytes) {
      this.resolve();
    }
  }

  /** What was kept so far, in one piece; joined once. */
  private joined(): Buffer {
    if (this.chunks.length !== 1) {
      this.chunks.splice(0, Infinity, Buffer.concat(this.chunks));
    }
    return this.chunks[0]!;
  }

  private resolve(): void {
    const { status, bodyBytes, byHandler } = this;
    const body = bodyBytes > this.options.maxBodyBytes ? null : this.joined();
    this.settling.resolve({ status, body, bodyBytes, byHandler });
  }
}

/** What an answered response tells those who still write to it. */
interface Ignorance {
  readonly statusCode: number;
  ended: boolean;
}

const IGNORANCE = Symbol('writes are ignored');
type IgnorantResponse = ServerResponse & { [IGNORANCE]: Ignorance };

function endIgnored(this: IgnorantResponse, ...args: unknown[]): ServerResponse {
  this[IGNORANCE].ended = true;
  callBack(args);
  return this;
}

function writeIgnored(...args: unknown[]): boolean {
  callBack(args);
  return true;
}

function ignored(this: ServerResponse): ServerResponse {
  return this;
}

const tellsEnd: PropertyDescriptor & ThisType<IgnorantResponse> = {
  get() {
    return this[IGNORANCE].ended;
  },
  set() {},
  configurable: true,
};
const tellsStatus: PropertyDescriptor & ThisType<IgnorantResponse> = {
  get() {
    return this[IGNORANCE].statusCode;
  },
  set() {},
  configurable: true,
};

/**
 * Lets everything written to an answered response go nowhere, without a complaint: what outer interceptors and the
 * framework still do with it, once a replay was sent in their place.
 */
export function ignoreWrites(response: ServerResponse): void {
  const { statusCode } = response;
  unshareShape(response);
  Object.assign(response, {
    [IGNORANCE]: { statusCode, ended: false } satisfies Ignorance,
    setHeader: ignored,
    setHeaders: ignored,
    appendHeader: ignored,
    removeHeader: ignored,
    writeHead: ignored,
    flushHeaders: ignored,
    write: writeIgnored,
    end: endIgnored,
  });
  if ('json' in response) {
    Object.assign(response, { json: endIgnored, send: endIgnored }); // Express': a body and an ETag that nobody gets
  }
  Object.defineProperties(response, { statusCode: tellsStatus, headersSent: tellsEnd, writableEnded: tellsEnd });
}

const shields = new WeakMap<Socket, Socket>();

/**
 * The request's socket as the framework may see it while the response is held: it never closes. NestJS cancels a
 * handler's Observable and destroys its streams when the socket does.
 */
function shieldOf(socket: Socket): Socket {
  let shield = shields.get(socket);
  if (shield === undefined) {
    const deaf =
      (listen: (event: string, listener: () => void) => Socket) =>
      (event: string, listener: () => void): Socket =>
        event === 'close' ? socket : listen.call(socket, event, listener);
    const pretended = new Map<PropertyKey, unknown>([
      ['destroyed', false],
      ['on', deaf(socket.on)],
      ['once', deaf(socket.once)],
      ['addListener', deaf(socket.addListener)],
    ]);
    // Not an object that inherits from the socket: V8 is slow with whatever is the prototype of another.
    shield = new Proxy(socket, {
      get: (_, name): unknown => (pretended.has(name) ? pretended.get(name) : Reflect.get(socket, name)),
    });
    shields.set(socket, shield); // one a connection, whatever the number of its requests
  }
  return shield;
}

/** The methods as they are for everybody but the code that `isSilenced` tells of. */
function silencedFor(isSilenced: () => boolean, response: ServerResponse, methods: Methods): Methods {
  const nothing = (...args: unknown[]): ServerResponse => {
    callBack(args);
    return response;
  };
  const { emit, ...writing } = methods;
  const silenced = Object.entries(writing).map(([name, method]) => [
    name,
    (...args: unknown[]): unknown => (isSilenced() ? nothing : (method as typeof nothing))(...args),
  ]);
  return { ...(Object.fromEntries(silenced) as Methods), emit };
}

function headersSentError(verb: 'set' | 'write'): Error {
  const error = new Error(`Cannot ${verb} headers after they are sent to the client`);
  return Object.assign(error, { code: 'ERR_HTTP_HEADERS_SENT' });
}

/** The callback of `write(chunk, encoding?, callback?)` and its kin, wherever it stands. */
function callbackIn(args: unknown[]): WriteCallback | undefined {
  return args.find((argument): argument is WriteCallback => typeof argument === 'function');
}

function callBack(args: unknown[], error?: Error): void {
  const done = callbackIn(args);
  if (done !== undefined) {
    process.nextTick(done, error);
  }
}

type Methods = Partial<Record<keyof ServerResponse, unknown>>;

/**
 * Has V8 keep the properties of this one object in a dictionary, which taking any of them away does. On an object that
 * has got another prototype, as Express gives each response, V8 of Node.js 20 makes a hidden class for every property
 * that is added, with a copy of all those before it.
 */
function unshareShape(response: ServerResponse): void {
  if (Object.getPrototypeOf(response) !== ServerResponse.prototype) {
    const { sendDate } = response;
    Reflect.deleteProperty(response, 'sendDate');
    response.sendDate = sendDate;
  }
}

/** Puts methods onto the object itself and gives back what takes it back. */
function replaceMethods(response: ServerResponse, methods: Methods): () => void {
  unshareShape(response);
  const target = response as unknown as Record<string, unknown>;
  const before: [string, unknown][] = [];
  for (const [name, method] of Object.entries(methods)) {
    before.push([name, target[name]]);
    target[name] = method;
  }
  return () => {
    for (const [name, method] of before) {
      target[name] = method;
    }
  };
}

/** The same for properties that tell a state; once taken back they tell what they told before. */
function replaceState(
  response: ServerResponse,
  state: Partial<Record<keyof ServerResponse, () => unknown>>,
): () => void {
  let replaced = true;
  for (const [name, get] of Object.entries(state)) {
    const before = Object.getOwnPropertyDescriptor(response, name);
    Object.defineProperty(response, name, {
      get: () => {
        if (replaced) {
          return get();
        }
        return before === undefined
          ? (Reflect.get(Object.getPrototypeOf(response) as object, name, response) as unknown)
          : before.get === undefined
            ? (before.value as unknown)
            : (before.get.call(response) as unknown);
      },
      set() {}, // it tells; nobody can tell it
      configurable: true,
    });
  }
  return () => {
    replaced = false;
  };
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
