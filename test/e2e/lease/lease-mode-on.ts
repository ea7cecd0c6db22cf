import { afterAll, afterEach, beforeAll, beforeEach } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { IdempotencyService } from '../../../src/index.js';
import { queryOn } from '../../support/empty-database.js';
import { type Adapter, createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { LeaseController, provider, scripts, seen } from './lease.controller.js';

/** Two applications over one database, what tests do to them, and what they look at afterwards. */
export function leaseModeOn(adapter: Adapter) {
  let test: TestApp;
  let other: TestApp;
  let service: IdempotencyService;

  beforeAll(async () => {
    const options = { adapter, controllers: [LeaseController] };
    test = await createTestApp(options);
    other = await createTestApp({ ...options, databaseUrl: test.databaseUrl });
    service = test.app.get(IdempotencyService);
  });

  beforeEach(() => {
    test.logs.length = 0; // of two DataSources in one process, which is of no concern here
    provider.length = 0;
    seen.length = 0;
    for (const name of Object.keys(scripts)) delete scripts[name];
  });

  afterAll(async () => {
    await other.close();
    await test.close();
  });

  afterEach(async () => {
    await queryOn(test.databaseUrl, 'truncate idempotency_keys, idempotency_steps, effects');
  });

  const call = (name: string): string => {
    provider.push(name);
    return `${name} #${provider.length}`;
  };

  const rows = () => queryOn<Record<string, unknown>>(test.databaseUrl, 'select * from idempotency_keys order by key');
  const steps = () =>
    queryOn<Record<string, unknown>>(test.databaseUrl, 'select * from idempotency_steps order by position');
  const effects = () => test.effects();

  /** As if the process that holds the key had died a while ago. */
  const expireLease = (key: string) =>
    queryOn(test.databaseUrl, `update idempotency_keys set lease_expires_at = statement_timestamp() where key = $1`, [
      key,
    ]);

  const untilRunning = (key: string) =>
    waitFor(async () => (await service.find(key))?.state === 'running', { what: `${key} to run`, timeoutMs: 10_000 });

  /** A request whose handler returns 'done' once it is let go. */
  async function holding(path: string, key: string, body: object = {}, on = test) {
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const running = on.post(path, key, body);
    await untilRunning(key);
    return { running, letGo: gate.resolve };
  }

  return {
    application: () => test,
    other: () => other,
    service: () => service,
    call,
    rows,
    steps,
    effects,
    expireLease,
    untilRunning,
    holding,
  };
}
