import type { QueryRunner } from 'typeorm';

/** What `await using` does with a runner, in which TypeORM before 1.0 leaves it to the caller. */
export async function dispose(runner: QueryRunner, begun = false): Promise<void> {
  const { [Symbol.asyncDispose]: byItself } = runner as Partial<AsyncDisposable>;
  if (byItself !== undefined) {
    return byItself.call(runner);
  }
  if (begun) {
    await runner.commitTransaction();
  }
  await runner.release();
}
