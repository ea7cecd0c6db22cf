import { setImmediate as nextTurn } from 'node:timers/promises';
import type { QueryRunner } from 'typeorm';
import { Effect } from '../../support/effect.entity.js';
import { Author } from './entities.js';
import { dataSource, observer } from './lab.js';

export const effectsOf = () => dataSource.getRepository(Effect);
export const authors = () => dataSource.getRepository(Author);
export const add = (label: string) => effectsOf().save({ label });
export const ada = () => authors().findOneByOrFail({ name: 'Ada' });

/** Lets other flows go on, for about as long as a few statements take. */
export async function severalTurns(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) {
    await observer.query('select 1');
    await nextTurn();
  }
}

export class Expected extends Error {}

export async function manually(work: (runner: QueryRunner) => Promise<void>, prepare?: 'connect'): Promise<void> {
  const runner = dataSource.createQueryRunner();
  if (prepare === 'connect') await runner.connect();
  await runner.startTransaction();
  try {
    await work(runner);
    await runner.commitTransaction();
  } catch (error) {
    await runner.rollbackTransaction();
    throw error;
  } finally {
    await runner.release();
  }
}

export async function rowsOf(stream: AsyncIterable<unknown> | unknown): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const row of stream as AsyncIterable<unknown>) rows.push(row);
  return rows;
}

export function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}
