import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** By these bytes go out. */
const OUTLETS = ['writeHead', 'flushHeaders', 'write', 'end'] as const;
const METHODS = [...OUTLETS, 'setHeader', 'setHeaders', 'appendHeader', 'removeHeader', 'destroy', 'emit'] as const;
const STATES = ['headersSent', 'writableEnded', 'closed', 'statusCode'] as const;
// Not `finished`: by that Node tells an idle connection, and closes it when the server shuts down.
const MEMBERS = [...METHODS, ...STATES];

type Method = (typeof METHODS)[number];
type Methods = Record<Method, (...args: unknown[]) => unknown>;

/** Answers in place of a response. The functions are those of `ServerResponse`, their arguments not looked at. */
export type StandIn = Partial<Methods> &
  Partial<Record<(typeof STATES)[number], unknown>> & {
    /** Set when the response tells again by itself whether its headers were sent. */
    isOver?: boolean;
  };

export interface Takeover {
  /** Calls the method that the response had before. */
  callOriginal(name: Method, args: unknown[]): unknown;
  undo(): void;
}

const STAND_IN = Symbol('stand-in');

type TakenOver = Methods & { [STAND_IN]: StandIn };

// The same functions for all responses: V8 is fast with objects whose members are the same, slow where they are alike.
function delegate(name: Method) {
  return function (this: TakenOver, ...args: unknown[]): unknown {
    return this[STAND_IN][name]!(...args);
  };
}

const delegates: Record<string, PropertyDescriptor> = {};
for (const name of METHODS) {
  delegates[name] = { value: delegate(name), writable: true, configurable: true };
}
for (const name of STATES) {
  const get = function (this: TakenOver): unknown {
    return this[STAND_IN][name];
  };
  delegates[name] = { get, set() {}, configurable: true }; // it tells; nobody can tell it
}

/** Stays on a response that was held: a property that is taken away is slow in V8. */
const HEADERS_SENT: PropertyDescriptor = {
  get(this: TakenOver): unknown {
    const standIn = this[STAND_IN];
    return standIn.isOver
      ? (Reflect.get(Object.getPrototypeOf(this) as object, 'headersSent', this) as unknown)
      : standIn.headersSent;
  },
  set() {},
  configurable: true,
};

const ownOutlets = Object.fromEntries(OUTLETS.map((name) => [name, delegates[name]!.value as unknown]));

/**
 * Puts `standIn` in place of the response's own methods and states, as far as it has them, until that is undone.
 *
 * The raw `http.ServerResponse` is the one place where every way to answer comes together, under both adapters, after
 * every interceptor, serializer and exception filter. It gets another prototype, which costs a tenth of as many
 * properties of its own. What it has of its own is replaced there: what outer middleware put on it (compression,
 * on-headers) still runs once this is undone.
 *
 * @param holds whether bytes must not go out on any account, nor anybody be told wrongly that some did: Express gives a
 * response another prototype when a handler hands it to an application of its own
 */
export function takeOver(response: ServerResponse, standIn: StandIn, holds: boolean): Takeover {
  const target = response as unknown as TakenOver;
  const { writeHead, flushHeaders, write, end } = target;
  const ownPrototype = Object.getPrototypeOf(response) as Methods;
  const prototype = prototypeOver(ownPrototype, standIn);
  const replaced: [name: string, before: PropertyDescriptor][] = [];
  target[STAND_IN] = standIn;
  for (const name of MEMBERS) {
    if (Object.hasOwn(response, name) && name in standIn) {
      replaced.push([name, Object.getOwnPropertyDescriptor(response, name)!]);
      Object.defineProperty(response, name, delegates[name]!);
    }
  }
  if (holds) {
    Object.assign(target, ownOutlets);
    Object.defineProperty(response, 'headersSent', HEADERS_SENT);
  }
  Object.setPrototypeOf(response, prototype);
  return {
    callOriginal: (name, args) => {
      const before = replaced.find(([other]) => other === name)?.[1].value as Methods[Method] | undefined;
      return (before ?? ownPrototype[name]).apply(response, args);
    },
    undo: () => {
      if (holds) {
        Object.assign(target, { writeHead, flushHeaders, write, end });
        standIn.isOver = true;
      }
      replaced.forEach(([name, before]) => Object.defineProperty(response, name, before));
      if (Object.getPrototypeOf(response) === prototype) {
        Object.setPrototypeOf(response, ownPrototype);
      }
    },
  };
}

/** By the class of what stands in, and by the prototype beneath: few of either. */
const prototypes = new WeakMap<object, WeakMap<object, object>>();

function prototypeOver(beneath: object, standIn: StandIn): object {
  const kind = Object.getPrototypeOf(standIn) as object;
  let ofKind = prototypes.get(kind);
  if (ofKind === undefined) {
    ofKind = new WeakMap();
    prototypes.set(kind, ofKind);
  }
  let prototype = ofKind.get(beneath);
  if (prototype === undefined) {
    const names = MEMBERS.filter((name) => name in standIn);
    prototype = Object.create(beneath, Object.fromEntries(names.map((name) => [name, delegates[name]!]))) as object;
    ofKind.set(beneath, prototype);
  }
  return prototype;
}

/**
 * Lets everything written to an answered response go nowhere, without a complaint: what outer interceptors and the
 * framework still do with it, once a replay was sent in their place.
 */
export function ignoreWrites(response: ServerResponse): void {
  takeOver(response, new Silence(response), false);
}

class Silence implements StandIn {
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
