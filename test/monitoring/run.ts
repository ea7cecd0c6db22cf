/**
 * Runs the alerts and the dashboard of docs/monitoring in a real Prometheus, which scrapes the example while that serves all
 * kinds of requests; and an operation that waits for a person is found, resolved, and seen in the dashboard's query:
 * `npm run test:monitoring`. Needs Debian's package `prometheus`, or another one on the PATH with its promtool.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startFakeProvider } from '../../examples/payments/provider/fake-provider.js';
import { startPostgres } from '../../examples/support/postgres-server.js';
import { freePort } from '../support/free-port.js';
import { compilePrograms } from '../support/program.js';
import { watchDashboard } from './dashboard.js';
import { Drill } from './drill.js';
import { Prometheus } from './prometheus.js';
import { say } from './say.js';

const RULES = 'docs/monitoring/prometheus-rules.yml';
const RULE_TESTS = 'test/monitoring/rules.test.yml';

async function main(): Promise<void> {
  const alerts = checkRules();
  await compilePrograms();
  const postgres = await startPostgres({
    dataDir: join(tmpdir(), `nestjs-idempotency-monitoring-${randomUUID()}`),
    persistent: false,
  });
  const provider = await startFakeProvider();
  const drill = new Drill(postgres.url, provider.url, await freePort());
  try {
    await drill.start();
    const prometheus = await Prometheus.start(drill.port, RULES);
    try {
      await drill.serve(() => watchDashboard(prometheus));
      await drill.leaveOperationWaiting();
      await drill.findAndResolve(prometheus);
      const health = await prometheus.alerts();
      assert.deepEqual(
        health.map(({ name, health: state, lastError }) => [name, state, lastError]),
        alerts.map((name) => [name, 'ok', '']),
      );
      say(`${alerts.length} alerts are evaluated without an error`);
    } finally {
      await prometheus.stop();
    }
  } finally {
    await drill.stop();
    await provider.stop();
    await postgres.stop();
  }
}

/** Each alert has a test in which it fires. */
function checkRules(): string[] {
  promtool('check', 'rules', RULES);
  promtool('test', 'rules', RULE_TESTS);
  const alerts = [...readFileSync(RULES, 'utf8').matchAll(/^ +- alert: (\w+)$/gm)].map(([, name]) => name!);
  const tests = readFileSync(RULE_TESTS, 'utf8').split('alertname: ');
  for (const alert of alerts) {
    assert(
      tests.some((test) => test.startsWith(`${alert}\n`) && test.includes('exp_labels')),
      `${RULE_TESTS} has no test in which ${alert} fires`,
    );
  }
  say(`promtool: ${alerts.length} alerts, each of which fires where it should`);
  return alerts;
}

function promtool(...args: string[]): void {
  try {
    execFileSync('promtool', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (cause) {
    const { code, stdout, stderr } = cause as { code?: string; stdout?: string; stderr?: string };
    throw new Error(
      code === 'ENOENT'
        ? 'There is no promtool. Install it with Prometheus by "apt-get install --no-install-recommends prometheus".'
        : `promtool ${args.join(' ')}:\n${stdout}${stderr}`,
      { cause },
    );
  }
}

await main();
