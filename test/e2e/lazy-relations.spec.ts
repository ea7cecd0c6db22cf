import { randomUUID } from 'node:crypto';
import { type CallHandler, Controller, type ExecutionContext, type NestInterceptor, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { from, lastValueFrom, mergeMap, type Observable, of } from 'rxjs';
import { Column, type DataSource, Entity, ManyToOne, OneToMany, PrimaryGeneratedColumn } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

@Entity('senders')
class Sender {
  @PrimaryGeneratedColumn()
  id!: number;

  @OneToMany(() => Note, (note) => note.sender)
  notes!: Promise<Note[]>;
}

@Entity('notes')
class Note {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  text!: string;

  @ManyToOne(() => Sender, (sender) => sender.notes)
  sender!: Promise<Sender>;
}

@Controller()
class NotesController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('created')
  @Idempotent()
  async created(): Promise<Sender> {
    const sender = await this.dataSource.manager.save(this.dataSource.manager.create(Sender));
    await this.dataSource.query(`insert into notes (text, "senderId") values ('hello', $1)`, [sender.id]);
    return sender;
  }

  @Post('found')
  @Idempotent()
  async found(): Promise<Sender> {
    const { id } = await this.created();
    return this.dataSource.manager.findOneByOrFail(Sender, { id });
  }

  @Post('lookup')
  @Idempotent()
  async lookup(@IdempotencyContext() { manager }: IdempotencyContext): Promise<object> {
    const { id } = await this.created();
    return { id, ask: (sql: string) => manager.query<object[]>(sql) };
  }

  @Post('plain')
  plain(): Promise<Sender> {
    return this.created();
  }
}

/** Replays come with plain data. */
async function unfolded(value: { id: number; notes: Promise<Note[]> | string[] }): Promise<unknown> {
  const notes = await value.notes;
  return { id: value.id, notes: notes.map((note) => (typeof note === 'string' ? note : note.text)) };
}

const INTERCEPTORS: Record<string, NestInterceptor> = {
  'that maps': {
    intercept: (_: ExecutionContext, next: CallHandler): Observable<unknown> => next.handle().pipe(mergeMap(unfolded)),
  },
  'that awaits': {
    intercept: async (_: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> =>
      of(await unfolded(await lastValueFrom(next.handle()))),
  },
  'that maps by another promise': {
    intercept: (_: ExecutionContext, next: CallHandler): Observable<unknown> =>
      from(lastValueFrom(next.handle()).then(unfolded)),
  },
};

interface Lookup {
  id: number;
  /** Only of the handler's own value: a replay has what came of it. */
  ask?(sql: string): Promise<object[]>;
}

/** Reads on after a read that has failed. */
const forgiving: NestInterceptor = {
  intercept: (_: ExecutionContext, next: CallHandler): Observable<unknown> =>
    next.handle().pipe(
      mergeMap(async ({ id, ask }: Lookup) => ({
        id,
        failure: await ask?.('select 1 / 0').catch((error: Error) => error.message),
        notes: await ask?.('select text from notes'),
      })),
    ),
};

describe.each(ADAPTERS)('a lazy relation, on %s', (adapter) => {
  it('or what else an outer interceptor reads by the transaction, undoes nothing where it fails', async () => {
    const test = await createTestApp({
      adapter,
      controllers: [NotesController],
      entities: [Sender, Note],
      configure: (app) => void app.useGlobalInterceptors(forgiving),
    });
    try {
      const [first, replay] = [await test.post('/lookup', 'k'), await test.post('/lookup', 'k')];
      const answer = { id: 1, failure: 'division by zero', notes: [{ text: 'hello' }] };
      expect([first.status, JSON.parse(String(first.body))]).toEqual([201, answer]);
      expect(String(replay.body)).toBe(String(first.body));
      expect(await test.dataSource.getRepository(Note).count()).toBe(1);
    } finally {
      await test.close();
    }
  });

  describe.each(Object.entries(INTERCEPTORS))('awaited by an outer interceptor %s', (_, interceptor) => {
    let test: TestApp;

    beforeAll(async () => {
      test = await createTestApp({
        adapter,
        controllers: [NotesController],
        entities: [Sender, Note],
        configure: (app) => void app.useGlobalInterceptors(interceptor),
      });
    });

    afterAll(() => test.close());

    it.each(['plain', 'created', 'found'])('is read as the handler left it: %s', async (route) => {
      const key = randomUUID();
      const first = await test.post(`/${route}`, key);
      expect(JSON.parse(String(first.body))).toEqual({ id: expect.any(Number), notes: ['hello'] });
    });

    it('is recorded so', async () => {
      const key = randomUUID();
      const [first, replay] = [await test.post('/created', key), await test.post('/created', key)];
      expect(String(replay.body)).toBe(String(first.body));
      expect(test.logs).toEqual([]);
    });
  });
});
