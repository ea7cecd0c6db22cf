// oxlint-disable jest/no-standalone-expect -- the commands of a model make the claims, not the test that runs them
import { expect } from '@jest/globals';
import type { ExecutionContext } from '@nestjs/common';
import { Client, type Pool } from 'pg';
import { IdempotencyService } from '../../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { type OpenRequest, openRequest } from '../../support/raw-http.js';
import { type Payload, type Slot, StateMachineModel } from './model.js';
import { type Adapter, createTestApp, IS_POOLED, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { type Gate, gates, type HoldingPlace, OperationsController } from './operations.controller.js';

/** Far beyond what a held request is held for. */
const WAIT_MS = 30_000;

/** A duplicate of a running request is refused by the first application and waits at the second. */
export const POLICIES = ['reject', { waitMs: WAIT_MS }] as const;

export const SLOTS: Slot[] = [
  { scope: '', key: 'one' },
  { scope: '', key: 'two' },
  { scope: 'tenant', key: 'one' },
];

/** How a client may write the same request. */
export interface Spelling {
  quotedKey: boolean;
  reordered: boolean;
}

export const PLAIN: Spelling = { quotedKey: false, reordered: false };

interface Held {
  gate: Gate;
  request: OpenRequest;
  hungUp: boolean;
  /** A duplicate that waits at the second application. At most one, so that what it meets is known. */
  waiting?: OpenRequest;
}

interface Observed {
  rows: { name: string; status: number; body: string | null; expired: boolean; fingerprint: string }[];
  effects: string[];
  locks: number;
}

/** The real thing. */
export class System {
  readonly held = new Map<string, Held>();
  private readonly instances: TestApp[] = [];
  private readonly fingerprints = new Map<string, string>();

  private constructor(
    private readonly adapter: Adapter,
    private readonly database: TestDatabase,
    private readonly admin: Client,
  ) {}

  static async start(adapter: Adapter): Promise<System> {
    const database = await createTestDatabase();
    const admin = new Client(database.url);
    await admin.connect();
    const system = new System(adapter, database, admin);
    for (const index of POLICIES.keys()) await system.boot(index);
    return system;
  }

  async stop(): Promise<void> {
    await this.reset();
    await Promise.all(this.instances.map((instance) => instance.close()));
    await this.admin.end();
    await this.database.drop();
  }

  /** Ends what a run left behind, also one that failed in the middle. */
  async reset(): Promise<void> {
    [...gates.values(), ...[...this.held.values()].map(({ gate }) => gate)].forEach(({ open }) => open());
    gates.clear();
    const open = [...this.held.values()].flatMap(({ request, waiting }) => [request, ...(waiting ? [waiting] : [])]);
    await Promise.allSettled(open.map(({ response }) => response));
    await waitFor(async () => (await this.observe()).locks === 0, { what: 'the end of the requests of the last run' });
    this.held.clear();
    await this.admin.query('delete from idempotency_keys; delete from effects');
  }

  open(
    instance: number,
    slot: Slot,
    { operation, amount }: Payload,
    spelling: Spelling = PLAIN,
    place?: HoldingPlace,
  ): Promise<OpenRequest> {
    return openRequest(this.instances[instance]!.port, {
      method: 'POST',
      path: '/operations',
      headers: [
        ['Content-Type', 'application/json'],
        ['Idempotency-Key', spelling.quotedKey ? `"${slot.key}"` : slot.key],
        ['X-Tenant', slot.scope],
        ...(place === undefined ? [] : [['X-Hold', place] as const]),
      ],
      body: spelling.reordered
        ? ` { "amount": ${amount}, "operation": "${operation}" }`
        : JSON.stringify({ operation, amount }),
    });
  }

  service(instance: number): IdempotencyService {
    return this.instances[instance]!.app.get(IdempotencyService);
  }

  async expire({ scope, key }: Slot): Promise<void> {
    await this.admin.query(
      `update idempotency_keys set created_at = clock_timestamp() - interval '1 hour', expires_at = clock_timestamp()
       where scope = $1 and key = $2`,
      [scope, key],
    );
  }

  /** Ends the connections of one application; behind a pooler, those that it has for a transaction. */
  async cut(index: number): Promise<void> {
    await this.admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where application_name = $1 and ($2 or state <> 'idle')`,
      [applicationName(index), !IS_POOLED],
    );
    const { master: pool } = this.instances[index]!.dataSource.driver as unknown as { master: Pool };
    await waitFor(() => pool.totalCount === (IS_POOLED ? pool.idleCount : 0), { what: 'the pool to have noticed' });
  }

  /** Shuts one application down, in the middle of what it does; `meanwhile` lets that go on. */
  async restart(index: number, meanwhile: () => Promise<void>): Promise<void> {
    const closing = this.instances[index]!.close();
    await meanwhile();
    await closing;
    await this.boot(index);
  }

  async observe(): Promise<Observed> {
    const results = (await this.admin.query(`
      select scope || '/' || key as name, response_status as status, convert_from(response_body, 'utf8') as body,
        expires_at <= clock_timestamp() as expired, encode(fingerprint, 'hex') as fingerprint
      from idempotency_keys order by (scope || '/' || key) collate "C";
      select label from effects order by label collate "C";
      select count(*)::int4 as locks from pg_locks
      where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`)) as unknown as {
      rows: Record<string, unknown>[];
    }[];
    return {
      rows: results[0]!.rows as unknown as Observed['rows'],
      effects: results[1]!.rows.map(({ label }) => label as string),
      locks: results[2]!.rows[0]!['locks'] as number,
    };
  }

  /** What must hold whenever no request is on its way but the held ones. */
  async mustBe(model: StateMachineModel): Promise<void> {
    const observed = await waitFor(
      async () => {
        const found = await this.observe();
        return found.locks === model.holders.length ? found : undefined;
      },
      { what: `${model.holders.length} keys to be claimed` },
    );
    expect(observed.effects).toEqual(model.effects);
    expect(observed.rows.map(({ name, status, body, expired }) => ({ name, status, body, expired }))).toEqual(
      model.rows.map(([name, { status, body, expired }]) => ({ name, status, body, expired })),
    );
    for (const [index, [, { payload }]] of model.rows.entries())
      this.compareFingerprint(payload, observed.rows[index]!.fingerprint);
    expect(new Set(this.fingerprints.values()).size).toBe(this.fingerprints.size);
  }

  /** The same for the same payload, whoever computed it and when. */
  private compareFingerprint({ operation, amount }: Payload, fingerprint: string): void {
    const name = `${operation} ${amount}`;
    this.fingerprints.set(name, this.fingerprints.get(name) ?? fingerprint);
    expect(fingerprint).toBe(this.fingerprints.get(name));
  }

  private async boot(index: number): Promise<void> {
    this.instances[index] = await createTestApp({
      adapter: this.adapter,
      controllers: [OperationsController],
      databaseUrl: this.database.url,
      instances: 1, // there are two applications already, and the commands say which one is asked
      extra: { application_name: applicationName(index) },
      idempotency: {
        inFlight: POLICIES[index]!,
        purge: false,
        scope: (context: ExecutionContext) =>
          context.switchToHttp().getRequest<{ headers: Record<string, string> }>().headers['x-tenant']!,
      },
    });
  }
}

function applicationName(index: number): string {
  return `state machine ${index}`;
}
