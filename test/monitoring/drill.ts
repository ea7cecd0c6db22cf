import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { queryOn } from '../support/empty-database.js';
import { type Answer, send } from '../support/json-api.js';
import { type PaymentsExample, startPaymentsExample } from '../support/payments-example.js';
import { programOf } from '../support/program.js';
import { openRequest } from '../support/raw-http.js';
import { waitFor } from '../support/wait-for.js';
import { queriesOf } from './dashboard.js';
import type { Prometheus } from './prometheus.js';
import { say } from './say.js';

/** More than are sent to one route within a minute otherwise, on a machine however fast. */
const LIMIT = 1_500;
const PAYMENT = { amount: 1000, currency: 'EUR', destination: 'acct_1' };
const WIRE = { amount: 1000, iban: 'DE02120300000000202051' };
const CUSTOMER = { name: 'Ada', email: 'ada@example.org' };
const SESSION = { user_id: 'user_1', workflow_id: 'kyc' };

/** The example in operation, and who operates it. */
export class Drill {
  private example: PaymentsExample | undefined;
  private keys = 0;

  constructor(
    private readonly databaseUrl: string,
    private readonly providerUrl: string,
    readonly port: number,
  ) {}

  async start(): Promise<void> {
    this.example = await startPaymentsExample({
      DATABASE_URL: this.databaseUrl,
      PROVIDER_URL: this.providerUrl,
      PORT: String(this.port),
      RATE_LIMIT: String(LIMIT),
    });
    say('the example serves');
  }

  async stop(): Promise<void> {
    await this.example?.end('SIGTERM');
  }

  /** All kinds of requests, over and over until `work` is done: a rate is made of two looks at least. */
  async serve(work: () => Promise<void>): Promise<void> {
    assert.equal((await this.get('/health')).status, 200);
    const { json: document } = await this.get('/openapi.json');
    assert('x-idempotency' in (document as { paths: Record<string, { post: object }> }).paths['/payments']!.post);
    await this.takeOver();
    const over = new AbortController();
    const done = work().finally(() => over.abort());
    while (!over.signal.aborted) {
      await this.sendAll();
    }
    await done;
    await this.useUpLimit();
  }

  /** A provider that has been slow for so long that the process was gone before it answered. */
  async leaveOperationWaiting(): Promise<void> {
    await this.post('/wires', 'wired', WIRE, 201);
    await this.switchProvider({ slow_ms: 60_000 });
    await this.sendOnly('/wires', 'stuck', WIRE);
    await waitFor(async () => ((await this.fromProvider('/wires')) as unknown[]).length === 2, { what: 'the wire' });
    await this.kill();
    await this.switchProvider({ slow_ms: 0 });
    await this.start();
    const isWaiting = async () => (await this.post('/wires', 'stuck', WIRE)).json['type'];
    await waitFor(async () => (await isWaiting()) === 'urn:nestjs-idempotency:outcome-unknown', {
      what: 'the lease to run out',
    });
    say('an operation waits: its retry gets 409 outcome-unknown');
  }

  /** As docs/operations.md tells whoever is called. */
  async findAndResolve(prometheus: Prometheus): Promise<void> {
    const doctor = await this.command('doctor', '--json');
    const findings = (doctor.told as { findings: { check: string; problem: string }[] }).findings;
    assert.equal(doctor.exitCode, 1);
    const found = findings.find(({ check }) => check === 'interrupted');
    assert.match(found?.problem ?? '', /^1 operation waits for an operator/);
    say(`doctor: ${found!.problem}`);

    const { keys } = (await this.command('list', '--state', 'interrupted', '--json')).told as {
      keys: { key: string }[];
    };
    assert.deepEqual(
      keys.map(({ key }) => key),
      ['stuck'],
    );
    say('list --state interrupted: has its key');
    await this.seeWaiting(prometheus, 1);
    await waitFor(async () => this.alertOf(prometheus, 'IdempotencyOperationsWaiting', 'pending'), {
      what: 'the alert to be pending',
    });

    const [, { wire_id: wireId }] = (await this.fromProvider('/wires')) as [object, { wire_id: string }];
    const response = JSON.stringify({ wire_id: wireId });
    const resolved = await this.command(
      'resolve',
      '',
      'stuck',
      '--status=201',
      '--response',
      response,
      '--yes',
      '--json',
    );
    assert.equal(resolved.exitCode, 0);
    const retry = await this.post('/wires', 'stuck', WIRE, 201);
    assert.deepEqual([retry.replayed, retry.json], [true, { wire_id: wireId }]);
    assert.equal(((await this.fromProvider('/wires')) as unknown[]).length, 2);
    say('resolve: the retry gets what the bank had done, which has done it once');
    await this.seeWaiting(prometheus, 0);
    await waitFor(async () => this.alertOf(prometheus, 'IdempotencyOperationsWaiting', 'inactive'), {
      what: 'the alert to be over',
    });
  }

  private async seeWaiting(prometheus: Prometheus, count: number): Promise<void> {
    const [query] = queriesOf('Operations that wait for a person');
    await waitFor(async () => (await prometheus.query(query!.expression))[0]?.value === count, {
      timeoutMs: 30_000, // the tables are looked at every 10 s
      what: `the dashboard to show ${count}`,
    });
    say(`dashboard: ${count} in the panel "${query!.title}"`);
  }

  private async alertOf(prometheus: Prometheus, alert: string, wanted: string): Promise<boolean> {
    return (await prometheus.alerts()).some(({ name, state }) => name === alert && state === wanted);
  }

  private async sendAll(): Promise<void> {
    const key = this.newKey();
    await this.post('/payments', key, PAYMENT, 201);
    await this.post('/payments', key, PAYMENT, 201);
    await this.post('/payments', key, { ...PAYMENT, amount: 2000 }, 422);
    await this.post('/payments?fail=after-write', this.newKey(), PAYMENT, 500);
    await this.post('/payments', undefined, PAYMENT, 400);
    await this.post('/verification/sessions', this.newKey(), SESSION, 201);
    const slow = this.newKey();
    const both = await Promise.all([0, 1].map(() => this.post('/payments?delay_ms=300', slow, PAYMENT)));
    assert.deepEqual(both.map(({ status }) => status).toSorted(), [201, 409]); // either may come first
  }

  /** A process dies, and another one goes on with what it has begun. */
  private async takeOver(): Promise<void> {
    await this.switchProvider({ slow_ms: 60_000 });
    const before = (await this.fromProvider('/stats')) as { calls: number };
    await this.sendOnly('/verification/sessions', 'taken over', SESSION);
    await waitFor(async () => ((await this.fromProvider('/stats')) as typeof before).calls > before.calls, {
      what: 'the provider to be called',
    });
    await this.kill();
    await this.switchProvider({ slow_ms: 0 });
    await this.start();
    await queryOn(
      this.databaseUrl,
      `update idempotency_keys set lease_expires_at = statement_timestamp() where key = 'taken over'`,
    );
    await this.post('/verification/sessions', 'taken over', SESSION, 201);
    say('an operation was taken over from a process that had died');
  }

  private async useUpLimit(): Promise<void> {
    const key = this.newKey();
    const first = await this.post('/customers', key, CUSTOMER, 201);
    let refused = 0;
    for (let turn = 0; turn <= LIMIT && refused === 0; turn++) {
      refused += Number((await this.post('/customers', undefined, {})).status === 429);
    }
    assert.equal(refused, 1);
    const replay = await this.post('/customers', key, CUSTOMER, 201);
    assert.deepEqual([replay.replayed, replay.json], [true, first.json]);
    say('the limit is used up: 429, and a replay all the same');
  }

  private newKey(): string {
    return `key ${++this.keys}`;
  }

  private async kill(): Promise<void> {
    await this.example!.end('SIGKILL');
  }

  private get(path: string): Promise<Answer> {
    return send(this.port, 'GET', path);
  }

  private async post(path: string, key: string | undefined, body: object, status?: number): Promise<Answer> {
    const answer = await send(this.port, 'POST', path, key, body);
    if (status !== undefined) assert.equal(answer.status, status, `${path}: ${JSON.stringify(answer.json)}`);
    return answer;
  }

  /** For an answer that never comes. */
  private async sendOnly(path: string, key: string, body: object): Promise<void> {
    const { response } = await openRequest(this.port, {
      method: 'POST',
      path,
      headers: [
        ['Content-Type', 'application/json'],
        ['Idempotency-Key', key],
      ],
      body: JSON.stringify(body),
    });
    response.catch(() => undefined);
  }

  private async switchProvider(switches: object): Promise<void> {
    await fetch(`${this.providerUrl}/switches`, { method: 'POST', body: JSON.stringify(switches) });
  }

  private async fromProvider(path: string): Promise<unknown> {
    return (await fetch(this.providerUrl + path)).json();
  }

  private async command(...args: string[]): Promise<{ exitCode: number; told: unknown }> {
    const env = { PATH: process.env['PATH'], DATABASE_URL: this.databaseUrl };
    const run = promisify(execFile)(process.execPath, [programOf('src/cli/main.ts'), ...args], { env });
    return run.then(
      ({ stdout }) => ({ exitCode: 0, told: JSON.parse(stdout) as unknown }),
      ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => {
        if (stdout === '') throw new Error(stderr);
        return { exitCode: code, told: JSON.parse(stdout) as unknown };
      },
    );
  }
}
