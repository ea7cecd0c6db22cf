/**
 * Operations by the client through a network that drops, delays, duplicates and resets what it carries, to examples that are
 * killed: one effect each, no success that was none, and an unknown outcome only where the client has said so.
 *
 *   npm run test:client -- --operations 10000 --callers 32 --seed 1
 */
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import { startPostgres } from '../../../examples/support/postgres-server.js';
import { idempotent, IdempotentRequestError, operation } from '../../../src/client/index.js';
import { HTTP } from '../../clients/http-framing.js';
import { FaultProxy, type Place, PLACES } from '../../faults/proxy.js';
import { Random } from '../../faults/random.js';
import { compilePrograms } from '../../support/program.js';
import { Examples } from './examples.js';

const { values } = parseArgs({
  options: {
    operations: { type: 'string', default: '10000' },
    callers: { type: 'string', default: '32' },
    seed: { type: 'string', default: '1' },
  },
});
const OPERATIONS = Number(values.operations);

/** Short, so that a run takes minutes: a stalled connection costs an attempt its whole time. */
const PATIENCE = { deadlineMs: 30_000, attemptTimeoutMs: 4_000, baseDelayMs: 50, maxDelayMs: 1_000 };
const KILL_EVERY_MS = 8_000;
const HOSTILE_PLACES: readonly Place[] = [...PLACES, 'message duplicated'];

interface Told {
  destination: string;
  paymentId?: string;
  error?: IdempotentRequestError;
}

const random = new Random(values.seed);
const tally = new Map<string, number>();
const count = (what: string) => tally.set(what, (tally.get(what) ?? 0) + 1);
const violations: string[] = [];

await compilePrograms();
const postgres = await startPostgres({
  dataDir: join(tmpdir(), `nestjs-idempotency-client-${randomUUID()}`),
  persistent: false,
  flags: ['-c', 'fsync=off', '-c', 'max_connections=200'],
});
const examples = await Examples.start(3, { DATABASE_URL: postgres.url });
const network = await FaultProxy.between(() => examples.port, random.fork('network'), HTTP);
const started = performance.now();
try {
  const isOver = new AbortController();
  const killing = killAgainAndAgain(isOver.signal);
  armNext(random.fork('faults'));
  const told = await carryOutAll();
  isOver.abort();
  await killing;
  network.disarm();
  const seconds = (performance.now() - started) / 1_000;
  const unknown = told.filter(({ error }) => error?.outcome === 'unknown');
  await check(told);
  const settled = await settleAll(unknown);
  await check(settled);
  report(seconds, told, settled);
} finally {
  network.stop();
  examples.stop();
  await postgres.stop();
}
process.exitCode = violations.length > 0 ? 1 : 0;

/** Every second to fourth request meets a fault. */
function armNext(faults: Random): void {
  const place = faults.pick(HOSTILE_PLACES);
  network.arm(`request: ${place}`, faults.integer(0, 3), () => {
    count(`fault: ${place}`);
    armNext(faults);
  });
}

async function killAgainAndAgain(over: AbortSignal): Promise<void> {
  while (!over.aborted) {
    await delay(KILL_EVERY_MS, undefined, { signal: over }).catch(() => undefined);
    if (!over.aborted) await examples.killOne();
  }
}

async function carryOutAll(): Promise<Told[]> {
  const told: Told[] = [];
  let next = 0;
  const caller = async (): Promise<void> => {
    while (next < OPERATIONS) {
      const index = next++;
      told.push(await carryOut(`acct_${index}`, random.fork(index)));
      if (told.length % 1_000 === 0) console.log(`${told.length} operations`);
    }
  };
  await Promise.all(Array.from({ length: Number(values.callers) }, caller));
  return told;
}

/** Some pages are reloaded while their operation is under way: what is left is what was stored. */
async function carryOut(destination: string, own: Random): Promise<Told> {
  if (own.chance(0.2)) {
    const reload = new AbortController();
    setTimeout(() => reload.abort(), own.integer(1, 100));
    const left = await send(destination, reload.signal);
    if (left.error === undefined) return left;
    count('reloads in mid-flight');
  }
  return send(destination);
}

async function send(destination: string, signal?: AbortSignal): Promise<Told> {
  const onProgress = ({ type }: { type: string }) => count(type);
  const pay = idempotent(fetch, { ...PATIENCE, onProgress });
  try {
    const response = await pay(`http://127.0.0.1:${network.port}/payments`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ amount: 1_000, currency: 'EUR', destination }),
      operation: operation(destination),
      ...(signal && { signal }),
    });
    const { payment_id: paymentId } = (await response.json()) as { payment_id?: string };
    if (response.status !== 201 || paymentId === undefined)
      violations.push(`${destination}: answered ${response.status}`);
    return { destination, paymentId: paymentId ?? '' };
  } catch (error) {
    if (!(error instanceof IdempotentRequestError)) throw error;
    return { destination, error };
  }
}

/** What was left unknown is found out by the same key, once the network is well again. */
function settleAll(unknown: Told[]): Promise<Told[]> {
  return Promise.all(unknown.map(({ destination }) => send(destination)));
}

async function check(told: Told[]): Promise<void> {
  const client = new Client(postgres.url);
  await client.connect();
  const { rows } = await client.query<{ id: string; destination: string }>('select id, destination from payments');
  await client.end();
  const effects = byDestination(rows);
  for (const { destination, paymentId, error } of told) {
    const ids = (effects.get(destination) ?? []).map(({ id }) => id);
    if (ids.length > 1) violations.push(`${destination}: ${ids.length} effects`);
    if (paymentId !== undefined && ids[0] !== paymentId) violations.push(`${destination}: told a success that is none`);
    if (error?.outcome === 'not-done' && ids.length > 0) violations.push(`${destination}: told that it was not done`);
  }
}

function byDestination(rows: { id: string; destination: string }[]): Map<string, { id: string }[]> {
  const groups = new Map<string, { id: string }[]>();
  for (const row of rows) groups.set(row.destination, [...(groups.get(row.destination) ?? []), row]);
  return groups;
}

function report(seconds: number, told: Told[], settled: Told[]): void {
  const outcomes = new Map<string, number>();
  for (const { error } of told) {
    const outcome = error === undefined ? 'told a success' : `told that the outcome is ${error.outcome}`;
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  const lines = [
    ...[...outcomes].map(([what, times]) => `${times} operations were ${what}`),
    ...[...tally].toSorted().map(([what, times]) => `${times} × ${what}`),
    `${examples.kills} × an example killed`,
    `${settled.filter(({ error }) => error === undefined).length} of ${settled.length} unknown ones settled afterwards by the same key`,
    ...violations.slice(0, 20).map((violation) => `VIOLATION ${violation}`),
    `${told.length} operations in ${seconds.toFixed(0)} s, ${violations.length} violations`,
  ];
  console.log(lines.join('\n'));
}
