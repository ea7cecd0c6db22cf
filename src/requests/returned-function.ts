/**
 * A handler that returns a function, or an object of them, has not done its work: an interceptor further out is about to
 * run it, outside of the transaction and after the claim has ended.
 *
 * @throws Error that tells how to have it run inside
 */
export function refuseFunctions(values: unknown[]): unknown[] {
  if (values.some(isToBeRun)) {
    throw new Error(
      'The handler of an @Idempotent() route returned a function instead of a result: the interceptor that is to run it is outside, and so would be its work. ' +
        'Put @Idempotent() below the decorator that attaches that interceptor: it then runs inside.',
    );
  }
  return values;
}

function isToBeRun(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) {
    return typeof value === 'function';
  }
  const isPlain = Object.getPrototypeOf(value) === Object.prototype;
  const members: unknown[] = isPlain ? Object.values(value) : [];
  return members.length > 0 && members.every((member) => typeof member === 'function');
}
