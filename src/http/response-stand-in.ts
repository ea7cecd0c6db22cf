import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** What may answer for a response instead of itself. */
const METHODS = [
  'setHeader',
  'setHeaders',
  'appendHeader',
  'removeHeader',
  'writeHead',
  'flushHeaders',
  'write',
  'end',
  'destroy',
  'emit',
] as const;
const STATES = ['headersSent', 'writableEnded', 'closed', 'statusCode'] as const;
// Not `finished`: by that Node tells an idle connection, and closes it when the server shuts down.

type Method = (typeof METHODS)[number];
type State = (typeof STATES)[number];

/**
 * Answers in place of a response: for the methods it has, and for the states it has until it is over. They are the
 * functions of `ServerResponse`, with arguments that have not been looked at.
 */
export type StandIn = Partial<Record<Method, (...args: unknown[]) => unknown>> &
  Partial<Record<State, unknown>> & {
    /** True once the response has got its own methods back; it then tells its own states, too. */
    readonly isOver: boolean;
  };

/** The methods a response had before, and how to give them back. */
export interface Takeover {
  readonly originals: Readonly<Record<Method, (...args: unknown[]) => unknown>>;
  undo(): void;
}

const STAND_IN = Symbol('stand-in');

type TakenOver = Record<Method, (...args: unknown[]) => unknown> & { [STAND_IN]: StandIn };

/** One function for all responses: V8 keeps a class of objects fast whose members are the same, not alike. */
const delegates = Object.fromEntries(
  METHODS.map((name) => [
    name,
    function (this: TakenOver, ...args: unknown[]): unknown {
      return this[STAND_IN][name]!(...args);
    },
  ]),
) as TakenOver;

const tellers = Object.fromEntries(
  STATES.map((name): [State, PropertyDescriptor] => [
    name,
    {
      get(this: TakenOver): unknown {
        const standIn = this[STAND_IN];
        return standIn.isOver
          ? (Reflect.get(Object.getPrototypeOf(this) as object, name, this) as unknown)
          : standIn[name];
      },
      set() {}, // it tells; nobody can tell it
      configurable: true,
    },
  ]),
) as Record<State, PropertyDescriptor>;

/**
 * Puts `standIn` in place of the response's own methods and states, for as long as it is not undone.
 *
 * The raw `http.ServerResponse` is the one place where every way to answer comes together, under both adapters, after
 * every interceptor, serializer and exception filter. Its methods are replaced on the object itself, not on a prototype:
 * Express gives a response another prototype when a handler hands it to an application of its own. What outer middleware
 * put there before (compression, on-headers) comes back with {@link Takeover.undo}. Nothing is deleted: that is slow in
 * V8.
 */
export function takeOver(response: ServerResponse, standIn: StandIn): Takeover {
  const target = response as unknown as TakenOver;
  const originals = {} as TakenOver;
  const foreign: [State, PropertyDescriptor][] = [];
  const methods = METHODS.filter((name) => name in standIn);
  for (const name of methods) {
    originals[name] = target[name];
    target[name] = delegates[name];
  }
  target[STAND_IN] = standIn;
  for (const name of STATES.filter((state) => state in standIn)) {
    const before = Object.getOwnPropertyDescriptor(response, name);
    if (before !== undefined && before.get !== tellers[name].get) {
      foreign.push([name, before]);
    }
    Object.defineProperty(response, name, tellers[name]);
  }
  return {
    originals,
    undo: () => {
      for (const name of methods) {
        target[name] = originals[name];
      }
      foreign.forEach(([name, before]) => Object.defineProperty(response, name, before));
    },
  };
}

/**
 * Lets everything written to an answered response go nowhere, without a complaint: what outer interceptors and the
 * framework still do with it, once a replay was sent in their place.
 */
export function ignoreWrites(response: ServerResponse): void {
  takeOver(response, new Silence(response));
}

class Silence implements StandIn {
  readonly isOver = false;
  readonly statusCode: number;
  writableEnded = false;

  constructor(private readonly response: ServerResponse) {
    this.statusCode = response.statusCode;
  }

  get headersSent(): boolean {
    return this.writableEnded;
  }

  setHeader = (): ServerResponse => this.response;
  setHeaders = this.setHeader;
  appendHeader = this.setHeader;
  removeHeader = this.setHeader;
  writeHead = this.setHeader;
  flushHeaders = this.setHeader;

  write(...args: unknown[]): boolean {
    callBack(args);
    return true;
  }

  end(...args: unknown[]): ServerResponse {
    this.writableEnded = true;
    callBack(args);
    return this.response;
  }
}

export type WriteCallback = (error?: Error | null) => void;

/** The callback of `write(chunk, encoding?, callback?)` and its kin, wherever it stands. */
export function callbackIn(args: unknown[]): WriteCallback | undefined {
  return args.find((argument): argument is WriteCallback => typeof argument === 'function');
}

export function callBack(args: unknown[], error?: Error): void {
  const done = callbackIn(args);
  if (done !== undefined) {
    process.nextTick(done, error);
  }
}

const shields = new WeakMap<Socket, Socket>();

/**
 * Has the request's socket look to the framework as if it never closed, until that is undone: NestJS cancels a
 * handler's Observable and destroys its streams when the socket does.
 */
export function hideClosing(response: ServerResponse): () => void {
  const { req } = response;
  const { socket } = req;
  req.socket = shieldOf(socket);
  return () => {
    req.socket = socket;
  };
}

function shieldOf(socket: Socket): Socket {
  let shield = shields.get(socket);
  if (shield === undefined) {
    const deaf =
      (listen: (event: string, listener: () => void) => Socket) =>
      (event: string, listener: () => void): Socket =>
        event === 'close' ? socket : listen.call(socket, event, listener);
    shield = Object.create(socket, {
      destroyed: { get: () => false },
      on: { value: deaf(socket.on) },
      once: { value: deaf(socket.once) },
      addListener: { value: deaf(socket.addListener) },
    }) as Socket;
    shields.set(socket, shield); // one a connection, whatever the number of its requests
  }
  return shield;
}
