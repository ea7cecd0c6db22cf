import type { IncomingMessage } from 'node:http';
import type { ExecutionContext } from '@nestjs/common';
import { fingerprintOf, fingerprintRequest, keyedFingerprint } from './http/fingerprint.js';
import { requestTarget } from './http/http-request.js';
import { headerValue, parseIdempotencyKey, parseResolvedKey } from './http/idempotency-key.js';
import { resolveScope } from './http/scope.js';
import { UnreadBodyError } from './http/unread-body.error.js';
import { FINGERPRINT_VERSION, KEYED_FINGERPRINT_VERSION } from './protocol/constants.js';
import {
  IdempotencyKeyMalformedException,
  IdempotencyKeyMissingException,
  IdempotencyUnsupportedMediaTypeException,
} from './protocol/exceptions.js';
import type { RouteOptions } from './protocol/options.js';
import type { IdempotentRequest, RequestWithoutKey } from './protocol/request.js';

type Target = Parameters<typeof requestTarget>[0];

/** For messages: `PaymentsController.create`. */
export function routeOf(context: ExecutionContext): string {
  return `${context.getClass().name}.${context.getHandler().name}`;
}

/** Where what is asked of a request is come by. */
export interface Source {
  context: ExecutionContext;
  /** Node's own. */
  raw: IncomingMessage;
  options: RouteOptions;
  fingerprintSecret: string | undefined;
  /** Takes the key as it was sent, for the client to see. */
  echo?: ((raw: string) => void) | undefined;
}

/**
 * What is asked for, and under which key; nothing where there is none.
 *
 * @throws what another key, or any, would have to be sent for
 */
export async function readRequest(
  source: Source,
  scopeOf: typeof resolveScope = resolveScope,
): Promise<IdempotentRequest | undefined> {
  const { context, options, fingerprintSecret } = source;
  const key = await acceptedKey(source);
  if (key === undefined) {
    return undefined;
  }
  const scope = await scopeOf(context, options);
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

async function acceptedKey({ context, raw, options, echo }: Source): Promise<string | undefined> {
  const { key, header } = options;
  const parsed =
    key === undefined ? parseIdempotencyKey(headerValue(raw, header)) : parseResolvedKey(await key(context));
  if (parsed.kind === 'missing') {
    if (options.required) {
      throw new IdempotencyKeyMissingException(
        key === undefined ? `the header ${header}` : 'the place this operation documents',
      );
    }
    return undefined;
  }
  if (parsed.kind === 'malformed') {
    throw new IdempotencyKeyMalformedException(parsed.reason);
  }
  if (key === undefined) {
    echo?.(parsed.raw);
  }
  if (!hasForm(parsed.key, options)) {
    throw new IdempotencyKeyMalformedException('it does not have the form that this operation asks for');
  }
  return parsed.key;
}

const wholePatterns = new WeakMap<RegExp, RegExp>();

/** Anchored rather than compared with the match: of `/a|ab/` the first alternative that matches would win. */
function hasForm(key: string, { keyPattern }: RouteOptions): boolean {
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
