import { setImmediate as endOfTurn } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { type Deferred, deferred } from '../../src/util/deferred.js';
import { SharedQuestion, SharedQuestions } from '../../src/util/shared-question.js';

describe('a shared question', () => {
  let answers: Deferred<string>[];
  let idle: number;
  let mayOverlap: boolean;

  const question = (): Promise<string> => {
    const answer = deferred<string>();
    answers.push(answer);
    return answer.promise;
  };

  beforeEach(() => {
    answers = [];
    idle = 0;
    mayOverlap = true;
  });

  describe('that may be put again before the last answer is there', () => {
    let shared: SharedQuestion<string>;

    beforeEach(() => {
      shared = new SharedQuestion(
        () => mayOverlap,
        () => idle++,
      );
    });

    it('is put at once, and for all that come in one turn of the event loop at its end', async () => {
      const first = shared.ask(question);
      const others = [shared.ask(question), shared.ask(question), shared.ask(question)];
      expect(answers).toHaveLength(1);
      await endOfTurn();
      expect(answers).toHaveLength(2);
      answers[1]!.resolve('second');
      expect(await Promise.all(others)).toEqual(['second', 'second', 'second']);
      answers[0]!.resolve('first');
      expect(await first).toBe('first');
    });

    it('is put anew for those that come when it was put', async () => {
      const asked = [shared.ask(question)];
      for (let turn = 1; turn <= 3; turn++) {
        asked.push(shared.ask(question));
        await endOfTurn();
        expect(answers).toHaveLength(turn + 1);
      }
      answers.forEach((answer, place) => answer.resolve(String(place)));
      expect(await Promise.all(asked)).toEqual(['0', '1', '2', '3']);
    });

    it('is put at once where nobody waits', async () => {
      for (const answer of ['first', 'second']) {
        const asked = shared.ask(question);
        answers.at(-1)!.resolve(answer);
        expect(await asked).toBe(answer);
      }
      expect([answers.length, idle]).toEqual([2, 2]);
    });

    it('is put again for those whose predecessors got an error', async () => {
      const first = shared.ask(question);
      const second = shared.ask(question);
      answers[0]!.reject(new Error('no connection'));
      await expect(first).rejects.toThrow('no connection');
      await endOfTurn();
      answers[1]!.resolve('there');
      expect(await second).toBe('there');
      expect(idle).toBe(1);
    });
  });

  it('does not wait any longer for an answer once it may be put again', async () => {
    const shared = new SharedQuestion<string>(() => mayOverlap);
    void shared.ask(question);
    mayOverlap = false;
    const asked = [shared.ask(question)];
    await endOfTurn();
    expect(answers).toHaveLength(1);
    mayOverlap = true;
    asked.push(shared.ask(question));
    await endOfTurn();
    expect(answers).toHaveLength(2);
    answers[1]!.resolve('second');
    expect(await Promise.all(asked)).toEqual(['second', 'second']);
  });

  it('is the one of those who wait for its answer', async () => {
    const shared = new SharedQuestion<string>();
    const of = (answer: string) => shared.ask(() => Promise.resolve(answer));
    expect(await Promise.all([of('a'), of('b'), of('c')])).toEqual(['a', 'b', 'b']);
  });

  it('that may not overlap is put once its answer is there, for all that have come meanwhile', async () => {
    const shared = new SharedQuestion<string>();
    const first = shared.ask(question);
    const others = [shared.ask(question)];
    await endOfTurn();
    others.push(shared.ask(question));
    expect(answers).toHaveLength(1);
    answers[0]!.resolve('first');
    expect(await first).toBe('first');
    await endOfTurn();
    expect(answers).toHaveLength(2);
    answers[1]!.resolve('second');
    expect(await Promise.all(others)).toEqual(['second', 'second']);
  });

  it('is forgotten by its name when nobody waits any more', async () => {
    const questions = new SharedQuestions<string>(() => true);
    const asked = [questions.ask('a', question), questions.ask('b', question)];
    answers.forEach((answer) => answer.resolve('there'));
    await Promise.all(asked);
    const replaced = questions.ask('a', () => Promise.resolve('of another question'));
    expect(await replaced).toBe('of another question');
  });
});
