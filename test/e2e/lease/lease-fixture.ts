import { Body, Controller, Post, type Type } from '@nestjs/common';
import { Idempotent, IdempotencyContext, IdempotencyService, type IdempotentOptions } from '../../../src/index.js';
import { queryOn } from '../../support/empty-database.js';
import type { RawResponse } from '../../support/raw-http.js';
import { createTestApp, type TestApp, type TestAppOptions } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';

export type Script = (context: IdempotencyContext, body: Record<string, unknown>) => unknown;

/** Longer than a busy machine keeps any process waiting; where a lease has to expire it is back-dated. */
export const LEASE_MS = 6_000;

/** An application whose handlers are in lease mode and do what the test says. */
export interface LeaseApp extends TestApp {
  service: IdempotencyService;
  /** What the handlers do; set by each test. */
  script: Script;
  /** Stands for a provider: each call is an effect that no transaction undoes. */
  provider: string[];
  /** An effect at the provider, and its number. */
  call(name: string): string;
  steps(): Promise<{ name: string; outcome: Record<string, unknown> }[]>;
  /** As if the process that holds the key had died a while ago. */
  expireLease(key: string): Promise<void>;
  untilState(key: string, state: string): Promise<unknown>;
  reset(): Promise<void>;
}

/** @param routes options of a handler for each path, beside `mode: 'lease'` */
export async function createLeaseApp(
  routes: Record<string, IdempotentOptions>,
  options: Omit<TestAppOptions, 'controllers'> & { controllers?: Type[] },
): Promise<LeaseApp> {
  const test = {} as LeaseApp;
  const controllers = Object.entries(routes).map(([path, route]) => {
    @Controller(path)
    class ScriptController {
      @Post()
      @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, ...route })
      run(@IdempotencyContext() context: IdempotencyContext, @Body() body: Record<string, unknown>): unknown {
        return test.script(context, body);
      }
    }
    return ScriptController;
  });
  const app = await createTestApp({ ...options, controllers: [...controllers, ...(options.controllers ?? [])] });
  const service = app.app.get(IdempotencyService);
  const query = <T extends object>(sql: string, values?: unknown[]) => queryOn<T>(app.databaseUrl, sql, values);
  // By descriptors: `port` is another one at each look.
  return Object.defineProperties(test, {
    ...Object.getOwnPropertyDescriptors(app),
    ...Object.getOwnPropertyDescriptors<Omit<LeaseApp, keyof TestApp>>({
      service,
      script: () => undefined,
      provider: [],
      call: (name) => `${name} #${test.provider.push(name)}`,
      steps: () => query('select name, outcome from idempotency_steps order by position, created_at'),
      expireLease: async (key) => {
        await query(`update idempotency_keys set lease_expires_at = statement_timestamp() where key = $1`, [key]);
      },
      untilState: (key, state) =>
        waitFor(async () => (await service.find(key))?.state === state, { what: `${key} to be ${state}` }),
      reset: async () => {
        test.provider.length = 0;
        test.logs.length = 0;
        await query('truncate idempotency_keys, idempotency_steps, effects');
      },
    }),
  });
}

export const problemOf = ({ status, body }: RawResponse): [number, string] => [
  status,
  (JSON.parse(body.toString()) as { type: string }).type,
];

export const jsonOf = ({ body }: RawResponse): unknown => JSON.parse(body.toString());
