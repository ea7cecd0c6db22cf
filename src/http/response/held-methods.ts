import type { ServerResponse } from 'node:http';

type Listener = (...args: unknown[]) => void;

/** Gets what is written to a response in place of Node. */
export interface Keeper {
  /** Whether nothing goes to Node for now. */
  readonly isHeld: boolean;
  readonly hasEnded: boolean;
  writeHead(status: number, rest: unknown[]): void;
  sendHead(by: 'flushHeaders'): void;
  write(chunk: unknown, encoding: unknown, callback: unknown): boolean;
  end(chunk: unknown, encoding: unknown, callback: unknown): void;
  /** Its writer has given the response up, for a source that failed half-way: it will never end. */
  breakOff(): void;
  emit(event: string | symbol, args: unknown[]): boolean;
  listenerAdded(event: string | symbol, listener: Listener): void;
}

const KEEPER = Symbol('idempotency: keeper');
type Kept = ServerResponse & { [KEEPER]: Keeper };

const HEADER_METHODS = ['setHeader', 'setHeaders', 'appendHeader', 'removeHeader'] as const;

/** What stood on the response before: Node's own, or what middleware had put there. */
export type OrdinaryMethods = Pick<ServerResponse, 'writeHead' | 'flushHeaders' | 'write' | 'end' | 'destroy' | 'emit'>;

/**
 * Has `keeper` get what is written to `response`. The methods are replaced on the object itself: what outer middleware
 * put there before (compression, on-headers) still runs when the response is let go, and an Express application that a
 * handler hands the response to gives it another prototype. All responses share the functions put there, so that V8
 * knows them all by one hidden class.
 */
export function replaceMethods(response: ServerResponse, keeper: Keeper): OrdinaryMethods {
  const { writeHead, flushHeaders, write, end, destroy, emit } = response;
  Object.assign(response, { [KEEPER]: keeper }, HOLDING);
  Object.defineProperty(response, 'writableEnded', ENDED);
  response.on('newListener', listenerAdded);
  return { writeHead, flushHeaders, write, end, destroy, emit };
}

/** Undoes {@link replaceMethods}. */
export function restoreMethods(response: ServerResponse, ordinary: OrdinaryMethods): void {
  Object.assign(response, ordinary);
  response.removeListener('newListener', listenerAdded);
}

/**
 * Code of a run that is over must not touch the headers of the next one. Rare enough for functions of its own.
 * @returns what undoes it
 */
export function guardHeaders(response: ServerResponse, isStrangersCode: () => boolean): () => void {
  const ordinary = Object.fromEntries(HEADER_METHODS.map((name) => [name, response[name]]));
  for (const name of HEADER_METHODS) {
    const method = response[name] as (...args: unknown[]) => unknown;
    Object.assign(response, {
      [name]: (...args: unknown[]): unknown => (isStrangersCode() ? response : method.apply(response, args)),
    });
  }
  return () => void Object.assign(response, ordinary);
}

/** What stands on every response that is held. */
const HOLDING = {
  writeHead(this: Kept, status: number, ...rest: unknown[]): ServerResponse {
    this[KEEPER].writeHead(status, rest);
    return this;
  },
  flushHeaders(this: Kept): void {
    this[KEEPER].sendHead('flushHeaders');
  },
  write(this: Kept, chunk: unknown, encoding?: unknown, callback?: unknown): boolean {
    return this[KEEPER].write(chunk, encoding, callback);
  },
  end(this: Kept, chunk?: unknown, encoding?: unknown, callback?: unknown): ServerResponse {
    this[KEEPER].end(chunk, encoding, callback);
    return this;
  },
  destroy(this: Kept): ServerResponse {
    this[KEEPER].breakOff();
    return this;
  },
  emit(this: Kept, event: string | symbol, ...args: unknown[]): boolean {
    return this[KEEPER].emit(event, args);
  },
};

/** Not by `finished`: by that Node tells an idle connection, and closes it when the server shuts down. */
const ENDED: PropertyDescriptor & ThisType<Kept> = {
  get() {
    const keeper = this[KEEPER];
    return keeper.isHeld ? keeper.hasEnded : this.finished;
  },
  set() {}, // it tells; nobody can tell it
  configurable: true,
};

function listenerAdded(this: ServerResponse, event: string | symbol, listener: Listener): void {
  (this as Kept)[KEEPER].listenerAdded(event, listener);
}
