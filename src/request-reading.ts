import type { IncomingMessage } from 'node:http';
import type { ExecutionContext } from '@nestjs/common';
import { fingerprintOf, fingerprintRequest, keyedFingerprint } from './http/fingerprint.js';
import { requestTarget } from './http/http-request.js';
import { type ParsedKey, parseResolvedKey, readIdempotencyKey } from './http/idempotency-key.js';
import { resolveScope } from './http/scope.js';
import { UnreadBodyError } from './http/unread-body.error.js';
import { FINGERPRINT_VERSION, KEYED_FINGERPRINT_VERSION } from './protocol/constants.js';
import { IdempotencyUnsupportedMediaTypeException } from './protocol/exceptions.js';
import type { RouteOptions } from './protocol/options.js';
import type { IdempotentRequest, RequestWithoutKey } from './protocol/request.js';

type Target = Parameters<typeof requestTarget>[0];

/** For messages: `PaymentsController.create`. */
export function routeOf(context: ExecutionContext): string {
  return `${context.getClass().name}.${context.getHandler().name}`;
}

/** @param request Node's own */
export async function readKey(
  context: ExecutionContext,
  request: IncomingMessage,
  { key, header }: RouteOptions,
): Promise<ParsedKey> {
  return key === undefined ? readIdempotencyKey(request, header) : parseResolvedKey(await key(context));
}

const wholePatterns = new WeakMap<RegExp, RegExp>();

/** Anchored rather than compared with the match: of `/a|ab/` the first alternative that matches would win. */
export function hasForm(key: string, { keyPattern }: RouteOptions): boolean {
  if (keyPattern === undefined) {
    return true;
  }
  let whole = wholePatterns.get(keyPattern);
  if (whole === undefined) {
    whole = new RegExp(`^(?:${keyPattern.source})$`, keyPattern.flags);
    wholePatterns.set(keyPattern, whole);
  }
  return whole.test(key);
}

/** @param scope as {@link resolveScope} has it */
export async function describeRequest(
  context: ExecutionContext,
  key: string,
  scope: string,
  options: RouteOptions,
  fingerprintSecret: string | undefined,
): Promise<IdempotentRequest> {
  const request = context.switchToHttp().getRequest<Target>();
  const plain =
    typeof options.fingerprint === 'function'
      ? fingerprintOf(await options.fingerprint(context), request)
      : await fingerprintRequest(request, options.fingerprint).catch(refuseUnread);
  return {
    key,
    scope,
    ...fingerprintBy(fingerprintSecret, plain),
    method: request.method,
    path: requestTarget(request).path,
    options,
  };
}

function fingerprintBy(
  secret: string | undefined,
  plain: Buffer,
): Pick<IdempotentRequest, 'fingerprint' | 'fingerprintVersion' | 'keyed'> {
  if (secret === undefined) {
    return { fingerprint: plain, fingerprintVersion: FINGERPRINT_VERSION };
  }
  const keyed = (fingerprint: Buffer): Buffer => keyedFingerprint(fingerprint, secret);
  return { fingerprint: keyed(plain), fingerprintVersion: KEYED_FINGERPRINT_VERSION, keyed };
}

/** Whose it is matters only to a handler that asks: one that cannot be told must not keep it from running. */
export async function describeWithoutKey(context: ExecutionContext, options: RouteOptions): Promise<RequestWithoutKey> {
  const request = context.switchToHttp().getRequest<Target>();
  const scope = await resolveScope(context, options).then(
    (value) => () => value,
    (error: unknown) => () => {
      throw error;
    },
  );
  return { scope, method: request.method, path: requestTarget(request).path };
}

/** A media type that nothing reads is the client's mistake; anything else that leaves a body unread is the route's. */
function refuseUnread(error: unknown): never {
  if (error instanceof UnreadBodyError && error.unsupportedMediaType !== undefined) {
    throw new IdempotencyUnsupportedMediaTypeException(error.unsupportedMediaType, { cause: error });
  }
  throw error;
}
