/** Runs tasks one after another, in the order in which they were handed in, whether or not the one before failed. */
export class Lane {
  private tail: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const start = (): Promise<T> => task();
    const result = this.tail.then(start, start);
    this.tail = result;
    return result;
  }
}
