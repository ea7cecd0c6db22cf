import { EventEmitter, once } from 'node:events';
import { describe, expect, it } from '@jest/globals';
import { Effect } from '../../support/effect.entity.js';
import { queryOn } from '../../support/empty-database.js';
import { headerOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { leaseModeOn } from './lease-mode-on.js';
import { provider, scripts } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, call, effects } = leaseModeOn(adapter);

  it('commits a transaction step and its memory together', async () => {
    let failures = 1;
    scripts['order'] = async (context) => {
      const id = await context.transaction('write', async (manager) => {
        const saved = await manager.save(Effect, { label: 'by the manager' });
        await application().dataSource.getRepository(Effect).save({ label: 'by a repository' });
        return saved.id;
      });
      if (failures-- > 0) throw new Error('once more');
      return id;
    };
    expect((await application().post('/run/order', 'k')).status).toBe(500);
    const second = await application().post('/run/order', 'k');
    expect(second.status).toBe(201);
    expect(await effects()).toEqual(['by the manager', 'by a repository']);
  });

  it('undoes a transaction step that fails, and runs it again', async () => {
    let failures = 1;
    scripts['order'] = async (context) =>
      context.transaction('write', async (manager) => {
        await manager.save(Effect, { label: `try ${failures}` });
        if (failures-- > 0) throw new Error('once more');
        return 'written';
      });
    expect((await application().post('/run/order', 'k')).status).toBe(500);
    expect(await effects()).toEqual([]);
    expect((await application().post('/run/order', 'k')).status).toBe(201);
    expect(await effects()).toEqual(['try 0']);
  });

  it('runs a transaction step again after a serialization failure, longer than its lease', async () => {
    let tries = 0;
    scripts['strict'] = async (context) =>
      context.transaction('sum', async (manager) => {
        tries++;
        const before = await manager.count(Effect);
        if (tries === 1) {
          await queryOn(application().databaseUrl, `insert into effects (label) values ('concurrent')`);
          const expired = 'select from idempotency_keys where lease_expires_at <= clock_timestamp()';
          const hasExpired = async () => (await queryOn(application().databaseUrl, expired)).length > 0;
          await waitFor(hasExpired, { what: 'the lease to run out' });
        }
        await manager.save(Effect, { label: `sum ${before}` });
        if (tries === 1) throw Object.assign(new Error('conflict'), { driverError: serializationFailure() });
        return before;
      });
    const answer = await application().post('/strict/strict', 'k');
    expect([answer.status, answer.body.toString()]).toEqual([201, '1']);
    expect(await effects()).toEqual(['concurrent', 'sum 1']);
  });

  const serializationFailure = (): Error => Object.assign(new Error('could not serialize'), { code: '40001' });

  it('says of a step that has swallowed an SQL error why it could not commit', async () => {
    const seen: unknown[] = [];
    scripts['order'] = (context) =>
      context
        .transaction('write', async (manager) => {
          await manager.query('select 1 / 0').catch(() => undefined);
        })
        .catch((error: unknown) => {
          seen.push(error);
          throw error;
        });
    expect((await application().post('/run/order', 'k')).status).toBe(500);
    expect(seen).toEqual([expect.objectContaining({ cause: expect.objectContaining({ code: '25P02' }) })]);
    expect(String(seen[0])).toMatch(/step "write" failed and the step went on.*DataSource\.transaction\(\)/);
  });

  it('answers 503 when the connection of a transaction step breaks, and goes on in a retry', async () => {
    let breaks = 1;
    scripts['order'] = async (context) => {
      await context.step('charge', () => call('charge'));
      return context.transaction('write', async (manager) => {
        if (breaks-- > 0) {
          const ended = once((await manager.queryRunner!.connect()) as EventEmitter, 'end');
          const [session] = (await manager.query('select pg_backend_pid() as pid')) as { pid: number }[];
          await queryOn(application().databaseUrl, 'select pg_terminate_backend($1::int4)', [session!.pid]);
          await ended; // it is noticed while nothing is asked of it
        }
        await manager.save(Effect, { label: 'written' });
        return 'done';
      });
    };
    const first = await application().post('/run/order', 'k');
    expect([first.status, headerOf(first, 'content-type'), headerOf(first, 'retry-after')]).toEqual([
      503,
      'application/problem+json; charset=utf-8',
      '2',
    ]);
    expect((await application().post('/run/order', 'k')).status).toBe(201);
    expect([provider, await effects()]).toEqual([['charge'], ['written']]);
  });
});
