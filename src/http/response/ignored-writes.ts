import type { ServerResponse } from 'node:http';
import { callBack } from './write-arguments.js';

/** What an answered response tells those who still write to it. */
interface Ignorance {
  readonly statusCode: number;
  ended: boolean;
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
      return this[IGNORANCE].ended;
    },
    set() {},
    configurable: true,
  },
  writableEnded: {
    get() {
      return this[IGNORANCE].ended;
    },
    set() {},
    configurable: true,
  },
};

/**
 * Lets everything written to an answered response go nowhere, without a complaint: what outer interceptors and the
 * framework still do with it, once a replay was sent in their place.
 */
export function ignoreWrites(response: ServerResponse): void {
  const { statusCode } = response;
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
  Object.defineProperties(response, STATE);
}
