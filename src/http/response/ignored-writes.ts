import type { ServerResponse } from 'node:http';
import { callBack } from './write-arguments.js';

/** What an answered response tells those who still write to it. */
interface Ignorance {
  readonly statusCode: number;
  /** Whoever still writes has ended what goes nowhere. */
  ended: boolean;
  /** Those who wait for the end of what was sent are being told. */
  isTelling: boolean;
  closed: boolean;
}

const IGNORANCE = Symbol('idempotency: writes are ignored');
type IgnorantResponse = ServerResponse & { [IGNORANCE]: Ignorance };

/** Called detached, as some code does with `end` and `json`, it knows no response, and has nothing to do either. */
function endIgnored(this: IgnorantResponse | undefined, ...args: unknown[]): ServerResponse | undefined {
  if (this !== undefined) {
    this[IGNORANCE].ended = true;
  }
  callBack(args);
  return this;
}

function writeIgnored(...args: unknown[]): boolean {
  callBack(args);
  return true;
}

function ignored(this: ServerResponse | undefined): ServerResponse | undefined {
  return this;
}

const STATE: PropertyDescriptorMap & ThisType<IgnorantResponse> = {
  statusCode: {
    get() {
      return this[IGNORANCE].statusCode;
    },
    set() {},
    configurable: true,
  },
  headersSent: {
    get() {
      return this[IGNORANCE].closed || showsEnd(this); // a stream that is closed with it fails after the head, not before
    },
    set() {},
    configurable: true,
  },
  writableEnded: {
    get() {
      return showsEnd(this);
    },
    set() {},
    configurable: true,
  },
};

/** Loggers ask on 'finish', and are told what has become of the response; who still writes finds one to write to. */
function showsEnd(response: IgnorantResponse): boolean {
  const { ended, isTelling } = response[IGNORANCE];
  return ended || isTelling;
}

/** An emit that has listeners of the end find a response that has ended. */
function emitTelling(ordinary: ServerResponse['emit']) {
  return function (this: IgnorantResponse, event: string | symbol, ...args: unknown[]): boolean {
    const ignorance = this[IGNORANCE];
    const { isTelling } = ignorance;
    ignorance.closed ||= event === 'close';
    ignorance.isTelling ||= event === 'finish' || event === 'close';
    try {
      return ordinary.call(this, event, ...args);
    } finally {
      ignorance.isTelling = isTelling;
    }
  };
}

/**
 * Lets everything written to an answered response go nowhere, without a complaint: what outer interceptors and the
 * framework still do with it, once a replay was sent in their place.
 */
export function ignoreWrites(response: ServerResponse): void {
  const { statusCode, emit } = response;
  Object.assign(response, {
    [IGNORANCE]: { statusCode, ended: false, isTelling: false, closed: false } satisfies Ignorance,
    setHeader: ignored,
    setHeaders: ignored,
    appendHeader: ignored,
    removeHeader: ignored,
    writeHead: ignored,
    flushHeaders: ignored,
    write: writeIgnored,
    end: endIgnored,
    emit: emitTelling(emit),
  });
  if ('json' in response) {
    // Express': a body and an ETag that nobody gets, and a view of a value that is not the handler's.
    Object.assign(response, { json: endIgnored, send: endIgnored, render: endIgnored });
  }
  Object.defineProperties(response, STATE);
}

/** Has Fastify's reply render no view: what would be in it is the handler's value, which a replay does not have. */
export function ignoreViews(reply: { view?: unknown }): void {
  if (typeof reply.view === 'function') {
    Object.assign(reply, { view: () => undefined });
  }
}
