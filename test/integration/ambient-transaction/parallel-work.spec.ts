import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { array, assert, asyncProperty, boolean, constant, constantFrom, letrec, oneof, record } from 'fast-check';
import type { EntityManager } from 'typeorm';
import { Effect } from '../../support/effect.entity.js';
import { add, Expected, manually, range } from './helpers.js';
import { custom, dataSource, effects, inRequest, observer, withTransactions } from './lab.js';

withTransactions();

describe('parallel work', () => {
  it('is all done, except what failed', async () => {
    const outcomes = await inRequest(() =>
      Promise.allSettled([
        ...range(20).map((number) => add(`save ${number}`)),
        ...range(5).map((number) =>
          dataSource.transaction(async (manager) => {
            await Promise.all([
              manager.save(Effect, { label: `transaction ${number}` }),
              add(`transaction ${number}'`),
            ]);
            if (number === 2) throw new Expected();
            if (number === 4) await manager.query('select 1 / 0');
          }),
        ),
        ...range(3).map((number) =>
          manually(async ({ manager }) => {
            await manager.save(Effect, { label: `runner ${number}` });
            await nextTurn();
            await add(`runner ${number}'`);
            if (number === 2) throw new Expected();
          }),
        ),
        ...range(4).map((number) => dataSource.query('insert into effects (label) values ($1)', [`query ${number}`])),
        dataSource.transaction((manager) => manager.query('this is no SQL')),
        custom.inTransaction(async () => {
          await add('custom 1');
          throw new Expected();
        }),
        custom.inTransaction(async () => void (await add('custom 2'))),
      ]),
    );
    expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(5);
    expect((await effects()).toSorted()).toEqual(
      [
        ...range(20).map((number) => `save ${number}`),
        ...[1, 3, 5].flatMap((number) => [`transaction ${number}`, `transaction ${number}'`]),
        ...[1, 3].flatMap((number) => [`runner ${number}`, `runner ${number}'`]),
        ...range(4).map((number) => `query ${number}`),
        'custom 2',
      ].toSorted(),
    );
  });

  type Program =
    | { kind: 'save'; by: 'repository' | 'manager' }
    | { kind: 'sequence' | 'parallel'; of: Program[] }
    | { kind: 'transaction' | 'custom' | 'runner' | 'connected runner'; of: Program; fails: boolean };

  const programs = letrec<{ program: Program }>((tie) => ({
    program: oneof(
      { maxDepth: 4, depthIdentifier: 'program' },
      record({ kind: constant('save' as const), by: constantFrom('repository' as const, 'manager' as const) }),
      record({
        kind: constantFrom('sequence' as const, 'parallel' as const),
        of: array(tie('program'), { minLength: 1, maxLength: 4, depthIdentifier: 'program' }),
      }),
      record({
        kind: constantFrom('transaction' as const, 'custom' as const, 'runner' as const, 'connected runner' as const),
        of: tie('program'),
        fails: boolean(),
      }),
    ),
  })).program;

  it('in whatever arrangement leaves exactly what was not undone', async () => {
    await assert(
      asyncProperty(programs, async (program) => {
        let saved = 0;
        const expected = new Set<string>();

        /** Answers with the labels that its part of the program keeps. */
        const execute = async (part: Program, manager: EntityManager): Promise<string[]> => {
          switch (part.kind) {
            case 'save': {
              const label = String(++saved);
              await (part.by === 'manager' ? manager.save(Effect, { label }) : add(label));
              return [label];
            }
            case 'sequence': {
              const kept: string[] = [];
              for (const each of part.of) kept.push(...(await execute(each, manager)));
              return kept;
            }
            case 'parallel':
              return (await Promise.all(part.of.map((each) => execute(each, manager)))).flat();
            default: {
              let kept: string[] = [];
              const work = async (nested: EntityManager): Promise<void> => {
                kept = await execute(part.of, nested);
                if (part.fails) throw new Expected();
              };
              const outcome = {
                transaction: () => dataSource.transaction(work),
                custom: () => custom.inTransaction(work),
                runner: () => manually((runner) => work(runner.manager)),
                'connected runner': () => manually((runner) => work(runner.manager), 'connect'),
              }[part.kind]();
              await outcome.catch((error: unknown) => {
                if (!(error instanceof Expected)) throw error;
                kept = [];
              });
              return kept;
            }
          }
        };

        await observer.query('truncate effects');
        await inRequest(async ({ transaction }) => {
          for (const label of await execute(program, transaction.createManager())) expected.add(label);
        });
        expect((await effects()).toSorted()).toEqual([...expected].toSorted());
      }),
      { numRuns: 150 },
    );
  });
});
