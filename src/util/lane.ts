/** Runs tasks one after another, in the order in which they were handed in, whether or not the one before failed. */
export class Lane {
  /** How many were handed in so far. */
  tasks = 0;
  private ended = 0;
  private tail: Promise<unknown> = Promise.resolve();

  get isIdle(): boolean {
    return this.ended === this.tasks;
  }

  run<T>(task: () => Promise<T>): Promise<T> {
    const start = (): Promise<T> => task();
    const result = this.tail.then(start, start);
    const end = (): void => void this.ended++;
    this.tasks++;
    this.tail = result.then(end, end);
    return result;
  }
}
