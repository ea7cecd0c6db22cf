import { type ExecutionContext, Logger } from '@nestjs/common';
import { MAX_SCOPE_LENGTH, USER_ID_NAMES } from '../protocol/constants.js';
import type { RouteOptions } from '../protocol/options.js';

/** The scope of requests without a user: one that all share. */
const SHARED_SCOPE = '';

/** UTF-8 writes every one of them as the same character: two scopes would become one. */
const LONE_SURROGATE = /\p{Surrogate}/u;

const REMEDY =
  "Set the option `scope` of @Idempotent() or IdempotencyModule, a function that returns whose key it is: scope: (context) => context.switchToHttp().getRequest().user.accountId, or scope: () => '' for one scope that all callers share.";

type User = Readonly<Record<string, unknown>>;

interface RequestOfUser {
  readonly user?: User | null;
  /** Fastify's middleware gets Node's request, and leaves there what it found out. */
  readonly raw?: { readonly user?: User | null };
}

/** Routes of which it was said that all their callers share a scope: once for each. */
const told = new WeakSet<RouteOptions>();

/** @param options of a route whose callers were said to share one scope: its first request says it no more */
export function sharedScopeIsTold(options: RouteOptions): void {
  told.add(options);
}

/**
 * Whose key it is.
 *
 * @throws Error, answered with 500, when that cannot be told: guessing could show one caller another's response
 */
export async function resolveScope(context: ExecutionContext, options: RouteOptions): Promise<string> {
  return validScope(options.scope === undefined ? defaultScope(context, options) : await options.scope(context));
}

/** The same before all guards have run: that there is no user yet is nothing to tell. @throws as the other does */
export async function resolveScopeEarly(context: ExecutionContext, options: RouteOptions): Promise<string> {
  return options.scope === undefined && options.sharedScope !== 'error' && callerOf(context) === undefined
    ? SHARED_SCOPE
    : resolveScope(context, options);
}

function validScope(scope: unknown): string {
  if (
    typeof scope !== 'string' ||
    scope.length > MAX_SCOPE_LENGTH ||
    scope.includes('\0') ||
    LONE_SURROGATE.test(scope)
  ) {
    throw new Error(
      `The scope of an idempotency key must be a string of at most ${MAX_SCOPE_LENGTH} characters without NUL or lone surrogates; got ${describe(scope)}. ${REMEDY}`,
    );
  }
  return scope;
}

function defaultScope(context: ExecutionContext, options: RouteOptions): string {
  const caller = callerOf(context);
  if (caller !== undefined) {
    return idOf(caller);
  }
  if (options.sharedScope === 'error' || !told.has(options)) {
    const { name: controller } = context.getClass();
    const problem = `A request to ${controller}.${context.getHandler().name} has no \`request.user\`, so nothing tells whose idempotency key it is`;
    if (options.sharedScope === 'error') {
      throw new Error(`${problem}. ${REMEDY}`);
    }
    told.add(options);
    new Logger('Idempotency').warn(
      `${problem}: all such callers share one scope, and one may get the response of another. ${REMEDY}`,
    );
  }
  return SHARED_SCOPE;
}

function callerOf(context: ExecutionContext): User | undefined {
  const { user, raw } = context.switchToHttp().getRequest<RequestOfUser>();
  return user ?? raw?.user ?? undefined;
}

/** By the first of the usual names that is there. */
function idOf(user: User): string {
  const name = USER_ID_NAMES.find((candidate) => user[candidate] !== undefined && user[candidate] !== null);
  const id = name === undefined ? undefined : user[name];
  if (typeof id === 'bigint' || (typeof id === 'string' && id !== '') || Number.isFinite(id)) {
    return String(id);
  }
  const found =
    name === undefined
      ? `has none of ${USER_ID_NAMES.map((candidate) => `\`${candidate}\``).join(', ')}`
      : `has an \`${name}\` that is neither a number nor a string with anything in it`;
  throw new Error(`request.user ${found}, so nothing tells whose idempotency key it is. ${REMEDY}`);
}

function describe(value: unknown): string {
  return typeof value === 'string' ? `one of ${value.length} characters` : typeof value;
}
