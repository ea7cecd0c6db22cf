import type { IdempotentRequest } from '../protocol/request.js';
import type { ReplayableResponse } from '../protocol/response.js';

/** That a request will be answered by a recorded response, as it was found before all of its guards had run. */
export interface ExpectedReplay {
  readonly request: IdempotentRequest;
  readonly response: ReplayableResponse;
  /** For when it turns out to be another request than it was taken for. @throws what it is to be refused with */
  readonly otherwise: () => Promise<void>;
}

/** So that what a guard has found need not be asked for again, and a request that it was wrong about does not get away. */
export class ExpectedReplays {
  private readonly expected = new WeakMap<object, ExpectedReplay>();

  /** @param raw Node's own request */
  note(raw: object, expected: ExpectedReplay): void {
    this.expected.set(raw, expected);
  }

  /** @returns the request, with what it has found where that was the same one */
  async meet(raw: object, request: IdempotentRequest): Promise<IdempotentRequest> {
    const expected = this.expected.get(raw);
    if (expected === undefined) {
      return request;
    }
    this.expected.delete(raw); // another run of the route asks anew
    if (isSame(expected.request, request)) {
      return { ...request, found: expected.response };
    }
    await expected.otherwise();
    return request;
  }
}

/** Guards behind the one that has looked may have set another user, and interceptors have changed the body. */
function isSame(one: IdempotentRequest, other: IdempotentRequest): boolean {
  return (
    one.scope === other.scope &&
    one.key === other.key &&
    one.fingerprintVersion === other.fingerprintVersion &&
    one.fingerprint.equals(other.fingerprint)
  );
}
