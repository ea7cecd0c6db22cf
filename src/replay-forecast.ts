import type { IncomingMessage } from 'node:http';
import type { ExecutionContext } from '@nestjs/common';
import { resolveScopeEarly } from './http/scope.js';
import type { IdempotencyRuntime } from './idempotency.runtime.js';
import { type Handler, isIdempotent } from './idempotent-handlers.js';
import type { RouteOptions } from './protocol/options.js';
import { readRequest } from './request-reading.js';

/**
 * Whether a guard lets a replay pass: that of a response which is recorded for this caller, this key and this very request.
 * Anything else is none: a missing key, one that is new, in flight or used for another request, a response that was not
 * kept, a body that is not read yet. Asks the database at most once; what it finds the interceptor does not ask for again.
 *
 * @param otherwise has the request treated as if it were none, should it turn out to be another one
 */
export async function expectsReplay(
  runtime: IdempotencyRuntime,
  context: ExecutionContext,
  otherwise: () => Promise<void>,
): Promise<boolean> {
  if (context.getType() !== 'http' || !isIdempotent(context.getClass(), context.getHandler() as Handler)) {
    return false;
  }
  const options = runtime.routes.ofContext(context);
  if (options.mode === 'observe') {
    return false;
  }
  try {
    return await foresee(runtime, context, options, otherwise);
  } catch {
    return false; // the interceptor will come upon the same, and say it
  }
}

async function foresee(
  { claims, expectedReplays, settings: { fingerprintSecret } }: IdempotencyRuntime,
  context: ExecutionContext,
  options: RouteOptions,
  otherwise: () => Promise<void>,
): Promise<boolean> {
  const raw = rawRequestOf(context);
  const request = await readRequest({ context, raw, options, fingerprintSecret }, resolveScopeEarly);
  const response = request && (await claims.replayOf(request));
  if (response === undefined) {
    return false;
  }
  const record = { scope: request!.scope, status: response.status, recordedAt: response.createdAt };
  if (options.authorizeReplay !== undefined && (await options.authorizeReplay(context, record)) !== true) {
    return false;
  }
  expectedReplays.note(raw, { request: request!, response, otherwise });
  return true;
}

/** Fastify wraps it, Express extends it. */
function rawRequestOf(context: ExecutionContext): IncomingMessage {
  const request = context.switchToHttp().getRequest<IncomingMessage & { raw?: IncomingMessage }>();
  return request.raw ?? request;
}
