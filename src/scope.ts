import type { ExecutionContext } from '@nestjs/common';
import { MAX_SCOPE_LENGTH } from './idempotency.constants.js';
import type { Resolver } from './idempotency.options.js';

/** The scope of requests without a user: one that all share. */
const SHARED_SCOPE = '';

/** UTF-8 writes every one of them as the same character: two scopes would become one. */
const LONE_SURROGATE = /\p{Surrogate}/u;

const REMEDY =
  "Set the option `scope` of @Idempotent() or IdempotencyModule, a function that returns whose key it is: scope: (context) => context.switchToHttp().getRequest().user.accountId, or scope: () => '' for one scope that all callers share.";

/**
 * Whose key it is.
 *
 * @throws Error, answered with 500, when that cannot be told: guessing could show one caller another's response
 */
export async function resolveScope(context: ExecutionContext, resolver: Resolver<string> | undefined): Promise<string> {
  const scope = resolver === undefined ? userOf(context) : await resolver(context);
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

function userOf(context: ExecutionContext): string {
  const { user } = context.switchToHttp().getRequest<{ user?: { id?: unknown; sub?: unknown } | null }>();
  if (user === undefined || user === null) {
    return SHARED_SCOPE;
  }
  const id = user.id ?? user.sub;
  if (typeof id === 'bigint' || (typeof id === 'string' && id !== '') || Number.isFinite(id)) {
    return String(id);
  }
  throw new Error(`request.user has neither an \`id\` nor a \`sub\` that could scope an idempotency key. ${REMEDY}`);
}

function describe(value: unknown): string {
  return typeof value === 'string' ? `one of ${value.length} characters` : typeof value;
}
