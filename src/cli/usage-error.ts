/** The command was called wrongly: the caller has to change it, running it again cannot help. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
