import { randomUUID } from 'node:crypto';
import { validateHeaderName, validateHeaderValue } from 'node:http';
import { Injectable } from '@nestjs/common';
import { runLogged } from './util/after-commit.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { runningKeylessRequest } from './requests/keyless-request.js';
import { runningLeasedClaim } from './modes/lease/leased-claim.js';
import type { HeaderLine } from './protocol/response.js';
import type { StoredKey } from './protocol/stored-key.js';
import { PurgeService } from './purge/purge.service.js';

/** What an operator has found out that the operation came to. */
export interface OperatorResponse {
  /** 200 to 499: what a response is recorded with. */
  status: number;
  /** Without a `Content-Type`, a body that is neither text nor bytes is `application/json`. */
  headers?: Record<string, string | string[]>;
  /** A string, or bytes (`Uint8Array`, any other view, `ArrayBuffer`), as they are; anything else as JSON; nothing for an empty one. */
  body?: unknown;
}

/**
 * For operators and for the application's own code; the request path does without it. Called in a handler, none of it
 * joins the handler's transaction.
 *
 * @throws IdempotencyStoreUnavailableException when there is no connection to be had within 5 s
 */
@Injectable()
export class IdempotencyService {
  /** @internal */
  constructor(
    private readonly runtime: IdempotencyRuntime,
    private readonly purger: PurgeService,
  ) {}

  /**
   * What is known of a key; nothing when it is absent or has expired. In transaction mode a key is there once it is
   * recorded, in lease mode as soon as its request runs: `state` tells.
   */
  find(key: string, scope = ''): Promise<StoredKey | undefined> {
    return this.runtime.keys.find({ key, scope });
  }

  /**
   * Deletes a key, whatever its state: the next request with it runs its handler, from the first step on. Tells whether
   * there was one.
   */
  forget(key: string, scope = ''): Promise<boolean> {
    return this.runtime.keys.forget({ key, scope });
  }

  /**
   * Deletes all keys of a scope, whatever their state, with their steps: for the erasure of a person's data. In batches of a
   * thousand, and answers how many there were. A request of transaction mode that runs meanwhile has no key yet, and records
   * it afterwards.
   */
  forgetScope(scope: string): Promise<number> {
    return this.runtime.keys.forgetScope(scope);
  }

  /**
   * Records the response of an operation that was interrupted: every retry gets it. False when there is no such
   * operation, or an attempt at it is running. Kept as long as the module's `ttlMs` says.
   *
   * @throws RangeError when the status is not 200 to 499
   * @throws TypeError when a header cannot be sent, or is one that frames the message; when the body has no JSON, or the
   * status is one without a body (204, 205, 304)
   */
  async resolve(key: string, response: OperatorResponse, scope = ''): Promise<boolean> {
    const { status } = response;
    if (!Number.isInteger(status) || status < 200 || status > 499) {
      throw new RangeError(`A response is recorded with a status from 200 to 499, not ${String(status)}.`);
    }
    const holder = this.newHolder(key, scope);
    const { headers, body } = encoded(response);
    const plain = { status, headers, body, bodyBytes: body.length };
    const sealed = this.runtime.encryption.sealResponse(plain, [scope, key, holder.claimId]);
    const recorded = { status, headers: sealed.headers, body: sealed.body! };
    return this.runtime.abandonedKeys.resolve(holder, recorded, this.ttlMs);
  }

  /**
   * Lets an operation that was interrupted go on: the next retry runs its handler again, with its finished steps
   * remembered. False when there is no such operation, or an attempt at it is running.
   */
  release(key: string, scope = ''): Promise<boolean> {
    return this.runtime.abandonedKeys.release(this.newHolder(key, scope), this.ttlMs);
  }

  /**
   * Deletes all expired keys, in batches, and tells how many. For an application that schedules the purge itself
   * (`purge: false`); while another process purges, it leaves the work to that one.
   */
  purge(): Promise<number> {
    return this.purger.runOnce();
  }

  /**
   * Runs `work` outside of the request's transaction, on connections of its own: for writes that must survive a
   * rollback, such as an audit of failed attempts. They are made again each time the handler runs again, and need a
   * second connection of the pool while the request holds its first. What is made in it and outlives the request (a
   * socket, a timer) belongs to no request.
   *
   * @throws IdempotencyStoreUnavailableException (by the promises of what uses the DataSource) when the request holds a
   * connection and there is no second one within 5 s
   */
  outsideTransaction<T>(work: () => T): T {
    return this.runtime.transactions.outside(work);
  }

  /**
   * Runs `callback` once the request on whose behalf it is called has committed and its response was let go; never after
   * a rollback, nor where the nested transaction around the call is undone. It may be called in any service, as
   * {@link IdempotencyContext.afterCommit} in a handler. In `ctx.transaction` of lease mode it runs after that
   * transaction's COMMIT, before `ctx.transaction` resolves, and at most once for all attempts. In a request
   * without a key, where the route does not require one, it runs once the handler has succeeded; outside of an idempotent
   * request at once. An error in it is logged; it is lost when the process dies before.
   */
  afterCommit(callback: () => unknown): void {
    const around = this.runtime.transactions.transaction() ?? runningLeasedClaim() ?? runningKeylessRequest();
    if (around === undefined) {
      void runLogged(callback);
    } else {
      around.afterCommit(callback);
    }
  }

  /** With a fencing token of its own: an attempt that wakes up after all finds the key taken from it. */
  private newHolder(key: string, scope: string): { key: string; scope: string; claimId: string } {
    return { key, scope, claimId: randomUUID() };
  }

  private get ttlMs(): number {
    return this.runtime.settings.ttlMs;
  }
}

/** They say how a message is cut (RFC 9112, section 6), which is the server's affair. */
const FRAMING_HEADERS = new Set(['content-length', 'transfer-encoding', 'connection', 'trailer', 'upgrade']);

/** RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5. */
const STATUSES_WITHOUT_BODY = new Set([204, 205, 304]);

function encoded({ status, headers = {}, body }: OperatorResponse): { headers: HeaderLine[]; body: Buffer } {
  const lines = Object.entries(headers).flatMap(([name, values]) =>
    [values].flat().map((value): HeaderLine => [name, value]),
  );
  for (const [name, value] of lines) {
    validateHeaderName(name);
    validateHeaderValue(name, String(value));
    if (FRAMING_HEADERS.has(name.toLowerCase())) {
      throw new TypeError(`The header ${name} is for Node.js to set: leave it out.`);
    }
  }
  const bytes = bytesOf(body);
  if (STATUSES_WITHOUT_BODY.has(status) && bytes?.length !== 0) {
    throw new TypeError(`A response with the status ${status} has no body: leave it out.`);
  }
  if (bytes !== undefined) {
    return { headers: lines, body: bytes };
  }
  const isTyped = lines.some(([name]) => name.toLowerCase() === 'content-type');
  return {
    headers: isTyped ? lines : [...lines, ['Content-Type', 'application/json; charset=utf-8']],
    body: Buffer.from(jsonOf(body)),
  };
}

/** Nothing where it is to be written as JSON. */
function bytesOf(body: unknown): Buffer | undefined {
  if (body === undefined) {
    return Buffer.alloc(0);
  }
  if (typeof body === 'string') {
    return Buffer.from(body);
  }
  if (ArrayBuffer.isView(body)) {
    return Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  }
  return body instanceof ArrayBuffer ? Buffer.from(body) : undefined;
}

function jsonOf(body: unknown): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(body);
  } catch (cause) {
    throw new TypeError(`The body has no JSON: ${(cause as Error).message}`, { cause });
  }
  if (json === undefined) {
    throw new TypeError(`The body has no JSON: it is a ${typeof body}.`);
  }
  return json;
}
