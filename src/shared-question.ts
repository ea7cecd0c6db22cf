import { setImmediate as endOfTurn } from 'node:timers/promises';

/**
 * A question that many ask at the same time, answered for all of them at once, and never by an answer older than the
 * asking. Who asks while an answer is under way shares the next question with all that come until that is put: at the
 * end of this turn of the event loop, or once the answer is there.
 */
export class SharedQuestion<T> {
  private latest: Promise<T> | undefined;
  private next: Promise<T> | undefined;

  /**
   * @param mayOverlap whether it may be put again before the last answer is there
   * @param onIdle called when nobody waits for an answer any more
   */
  constructor(
    private readonly question: () => Promise<T>,
    private readonly mayOverlap: () => boolean = () => false,
    private readonly onIdle: () => void = () => undefined,
  ) {}

  ask(): Promise<T> {
    if (this.latest === undefined) {
      return this.start();
    }
    this.next ??= this.startNext(this.mayOverlap() ? endOfTurn() : this.latest);
    return this.next;
  }

  private async startNext(after: Promise<unknown>): Promise<T> {
    await after.catch(() => undefined); // that answer is not for those who wait here
    return this.start();
  }

  private start(): Promise<T> {
    const answer = this.question();
    this.next = undefined;
    this.latest = answer;
    const isOver = (): void => {
      if (this.latest === answer && this.next === undefined) {
        this.latest = undefined;
        this.onIdle();
      }
    };
    answer.then(isOver, isOver);
    return answer;
  }
}

/** Questions by name, each shared by those that ask it at the same time. */
export class SharedQuestions<T> {
  private readonly open = new Map<string, SharedQuestion<T>>();

  constructor(private readonly mayOverlap: () => boolean) {}

  /** @param question asked if nobody else is asking under this name */
  ask(name: string, question: () => Promise<T>): Promise<T> {
    let shared = this.open.get(name);
    if (shared === undefined) {
      shared = new SharedQuestion(question, this.mayOverlap, () => this.open.delete(name));
      this.open.set(name, shared);
    }
    return shared.ask();
  }
}
