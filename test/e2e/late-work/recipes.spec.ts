import { AsyncResource } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import type { Server } from 'node:net';
import { ConflictException } from '@nestjs/common';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { In } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { IdempotencyService } from '../../../src/index.js';
import { warned } from '../../../src/util/late-work.js';
import { Effect } from '../../support/effect.entity.js';
import { PLACES, type Script, script, ScriptedController } from '../../support/scripted-routes.js';
import { createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { Batcher, LazyClient, LockQueue, startEcho } from './shared-things.js';

/** The recipes of docs/guarantees.md for what requests share: nothing of a request that fails is taken for another's. */
describe.each(PLACES)('a recipe for what requests share, in a %s', (place) => {
  let test: TestApp;
  let service: IdempotencyService;
  let echo: Server;

  beforeAll(async () => {
    test = await createTestApp({ adapter: 'express', controllers: [ScriptedController], instances: 1 });
    service = test.app.get(IdempotencyService);
    echo = await startEcho();
  });

  beforeEach(async () => {
    await test.dataSource.query('truncate effects, idempotency_keys');
    test.logs.length = 0;
    warned.clear();
  });

  afterAll(async () => {
    echo.close();
    await test.close();
  });

  const warnings = (): string[] => test.logs.filter((line) => line.includes('it comes on behalf of'));
  const add = async (label: string): Promise<void> => {
    await test.dataSource.getRepository(Effect).insert({ label });
  };
  const status = async (where: string, work: Script): Promise<number> =>
    (await test.post(`/${where}/${script(work)}`, randomUUID())).status;

  it('lock queue: binds who waits', async () => {
    const queue = new LockQueue();
    const taken = deferred();
    const first = status(place, async () => {
      await new Promise<void>((go) => queue.take(go));
      await add('of the first');
      taken.resolve();
      await waitFor(() => queue.length === 1, { what: 'the second to wait' });
      queue.letGo();
      throw new ConflictException();
    });
    await taken.promise;
    const second = status(place, async () => {
      await new Promise<void>((resolve, reject) => {
        const work = (): void =>
          void add('of the second')
            .finally(() => queue.letGo())
            .then(resolve, reject);
        queue.take(AsyncResource.bind(work));
      });
    });
    expect(await Promise.all([first, second])).toEqual([409, 201]);
    expect(await test.effects()).toEqual(['of the second']);
    expect(warnings()).toEqual([]);
  });

  it('DataLoader: loads outside of any transaction, or is made for each request', async () => {
    await add('there');
    const load = async (labels: string[]): Promise<boolean[]> => {
      const found = await test.dataSource.getRepository(Effect).findBy({ label: In(labels) });
      return labels.map((label) => found.some((effect) => effect.label === label));
    };
    const shared = new Batcher((labels) => service.outsideTransaction(() => load(labels)));
    const answers: unknown[] = [];
    const made = await status(place, async () => {
      await add('uncommitted');
      const own = new Batcher(load);
      answers.push(
        await Promise.all([shared.get('there'), shared.get('uncommitted')]),
        await Promise.all([own.get('there'), own.get('uncommitted')]),
      );
    });
    expect(made).toBe(201);
    expect(answers).toEqual([
      [true, false],
      [true, true],
    ]);
    expect(warnings()).toEqual([]);
  });

  it('event emitter: binds a listener to where it was put on', async () => {
    const emitter = new EventEmitter();
    const written: Promise<void>[] = [];
    emitter.on(
      'placed',
      AsyncResource.bind((label: string) => void written.push(add(label))),
    );
    const failed = await status(place, async () => {
      emitter.emit('placed', 'of the listener');
      await Promise.all(written);
      await add('of the handler');
      throw new ConflictException();
    });
    expect(failed).toBe(409);
    expect(await test.effects()).toEqual(['of the listener']);
    expect(warnings()).toEqual([]);
  });

  it('socket client: is opened outside', async () => {
    const client = new LazyClient(
      echo,
      (label) => add(label),
      (open) => service.outsideTransaction(open),
    );
    const failed = await status(place, async () => {
      await client.ask('of the first');
      throw new ConflictException();
    });
    expect(failed).toBe(409);
    expect(await status('plain', () => client.ask('of the second'))).toBe(201);
    client.close();
    expect(await test.effects()).toEqual(['of the first', 'of the second']);
    expect(warnings()).toEqual([]);
  });

  it('interval: is started outside', async () => {
    let timer: NodeJS.Timeout | undefined;
    const polled: unknown[] = [];
    const poll = (): Promise<unknown> => test.dataSource.manager.count(Effect).then((count) => polled.push(count));
    const failed = await status(place, async () => {
      timer = service.outsideTransaction(() => setInterval(() => void poll().catch((error) => polled.push(error)), 5));
      await add('undone');
      await waitFor(() => polled.length > 0, { what: 'a poll beside the transaction' });
      throw new ConflictException();
    });
    expect(failed).toBe(409);
    const before = polled.length;
    await waitFor(() => polled.length > before + 1, { what: 'a poll after it' });
    clearInterval(timer);
    expect(new Set(polled)).toEqual(new Set([0]));
    expect(warnings()).toEqual([]);
  });
});
