import type { Observable, Subscriber } from 'rxjs';
import type { HttpExchange } from '../http/response/http-exchange.js';
import type { RequestWithoutKey } from '../protocol/request.js';
import { contextOf } from './handler-context.js';
import type { RunSurroundings } from './run-surroundings.js';

/** Runs the handler unprotected: the request has no key, and its route does not ask for one. */
export function runWithoutKey(
  exchange: HttpExchange,
  { claims, keys, options }: Pick<RunSurroundings, 'claims' | 'keys' | 'options'>,
  { scope, method, path }: RequestWithoutKey,
  handle: () => Observable<unknown>,
  outer: Subscriber<unknown>,
): void {
  const claim = claims.withoutKey(options, `${method} ${path}`);
  const { seed } = claim;
  const request = {
    key: undefined,
    get scope() {
      return scope();
    },
    seed,
  };
  exchange.pass(contextOf({ request, attempt: 1, claim }, keys));
  claim.run(handle).subscribe(outer);
}
