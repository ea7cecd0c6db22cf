/**
 * A question that many ask at the same time, answered for all of them at once. Who asks while an answer is under way
 * shares the next one, with all that come until then: an answer is never older than the asking.
 */
export class SharedQuestion<T> {
  private current: Promise<T> | undefined;
  private next: Promise<T> | undefined;

  constructor(private readonly question: () => Promise<T>) {}

  /** Whether nobody waits for an answer. */
  get isIdle(): boolean {
    return this.current === undefined;
  }

  ask(): Promise<T> {
    if (this.current === undefined) {
      return this.start();
    }
    const { current } = this;
    this.next ??= current.then(
      () => this.start(),
      () => this.start(),
    );
    return this.next;
  }

  private start(): Promise<T> {
    this.next = undefined;
    const answer = this.question();
    this.current = answer;
    const isOver = (): void => {
      if (this.current === answer && this.next === undefined) {
        this.current = undefined;
      }
    };
    answer.then(isOver, isOver);
    return answer;
  }
}

/** Questions by name, each shared by those that ask it at the same time. */
export class SharedQuestions<T> {
  private readonly open = new Map<string, SharedQuestion<T>>();

  /** @param question asked if nobody else is asking under this name */
  ask(name: string, question: () => Promise<T>): Promise<T> {
    const shared = this.open.get(name) ?? new SharedQuestion(question);
    this.open.set(name, shared);
    const answer = shared.ask();
    const isOver = (): void => {
      if (shared.isIdle) {
        this.open.delete(name);
      }
    };
    answer.then(isOver, isOver);
    return answer;
  }
}
