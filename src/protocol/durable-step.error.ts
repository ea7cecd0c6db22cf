/** A handler uses its durable steps in a way that cannot be resumed. */
export class DurableStepError extends Error {
  override readonly name = 'DurableStepError';
}
