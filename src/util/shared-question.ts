import { deferred } from './deferred.js';

type Question<T> = () => Promise<T>;

/**
 * A question that many ask at the same time, answered for all of them at once, and never by an answer older than the
 * asking. Who asks while an answer is under way shares the next question with all that come until that is put: once the
 * answer is there, or at the end of this turn of the event loop already where two may be under way.
 */
export class SharedQuestion<T> {
  private latest: Promise<T> | undefined;
  private next: { readonly answer: Promise<T>; readonly put: () => void } | undefined;

  /**
   * @param mayOverlap whether it may be put again before the last answer is there
   * @param onIdle called when nobody waits for an answer any more
   */
  constructor(
    private readonly mayOverlap: () => boolean = () => false,
    private readonly onIdle: () => void = () => undefined,
  ) {}

  /** @param question put unless that of another one is, who has asked since the last was put */
  ask(question: Question<T>): Promise<T> {
    if (this.latest === undefined) {
      return this.put(question);
    }
    this.next ??= this.prepareNext(question, this.latest);
    if (this.mayOverlap()) {
      setImmediate(this.next.put);
    }
    return this.next.answer;
  }

  private prepareNext(question: Question<T>, latest: Promise<T>): NonNullable<typeof this.next> {
    const turn = deferred();
    const put = (): void => turn.resolve();
    latest.then(put, put); // its error is not for those who wait here
    return { answer: turn.promise.then(() => this.put(question)), put };
  }

  private put(question: Question<T>): Promise<T> {
    this.next = undefined;
    const answer = question();
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

  ask(name: string, question: Question<T>): Promise<T> {
    let shared = this.open.get(name);
    if (shared === undefined) {
      shared = new SharedQuestion(this.mayOverlap, () => this.open.delete(name));
      this.open.set(name, shared);
    }
    return shared.ask(question);
  }
}
