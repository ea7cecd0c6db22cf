import { cpus } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Server } from '../bench.js';
import type { Database } from '../database.js';
import { uniqueKeys } from '../load.js';
import { pacedLoad } from '../paced-load.js';
import { ONE_KB } from '../payload.js';
import { atLeast, atMost, row, type Row, type ScenarioResult } from '../result.js';
import { figure, quantile } from '../statistics.js';

const EXPIRED_BODY_BYTES = 64;
/** Requests per second meanwhile: a good part of what one core does, and steady. */
const FOREGROUND = 200;
/** "Never one long transaction" in a figure: no vacuum and no replica minds a second. */
const LONGEST_TRANSACTION_MS = 1000;
/** PostgreSQL's block size, unless it was compiled for another. */
const PAGE_BYTES = 8192;

interface Purge {
  perSecond: number;
  p99Before: number;
  p99During: number;
  longestMs: number;
  /** Part of the time that the processors had work; all of them together. */
  busyBefore: number;
  busyDuring: number;
  /** What PostgreSQL did meanwhile, for the requests, too. */
  did: ServerWork;
}

interface ServerWork {
  walBytes: number;
  /** Whole pages in the WAL: each page at its first change after a checkpoint. */
  pageImages: number;
  checkpoints: number;
  vacuums: number;
}

/** 5. Deleting what has expired, while requests go on. */
export async function purge(bench: Bench): Promise<ScenarioResult> {
  const rows: Row[] = [];
  const counts = bench.pick([100_000], [1_000_000, 10_000_000]);
  for (const count of counts) {
    const results: Purge[] = [];
    // Ten million take minutes to load: they are purged once.
    const rounds = count > 1_000_000 ? 1 : bench.pick(1, bench.options.rounds);
    for (let round = 0; round < rounds; round++) {
      results.push(await purgeOf(bench, count));
    }
    rows.push(...rowsOf(count, results));
  }
  return { title: `5. Purge, with ${FOREGROUND} first requests per second`, rows };
}

function rowsOf(count: number, results: Purge[]): Row[] {
  const what = `${count.toLocaleString('en')} expired keys`;
  const of = (unit: string, value: (purged: Purge) => number) => figure(unit, results.map(value));
  return [
    atLeast(
      `${what}: deleted`,
      of('rows/s', ({ perSecond }) => perSecond),
      50_000,
    ),
    row(
      `${what}: foreground p99 before`,
      of('ms', ({ p99Before }) => p99Before),
    ),
    row(
      `${what}: foreground p99 during`,
      of('ms', ({ p99During }) => p99During),
    ),
    atMost(
      `${what}: foreground p99, during to before`,
      of('×', ({ p99Before, p99During }) => p99During / p99Before),
      1.25,
    ),
    row(
      `${what}: processors busy before`,
      of('%', ({ busyBefore }) => busyBefore * 100),
    ),
    row(
      `${what}: processors busy during`,
      of('%', ({ busyDuring }) => busyDuring * 100),
    ),
    row(
      `${what}: WAL for each`,
      of('bytes', ({ did }) => did.walBytes / count),
    ),
    row(
      `${what}: of that in whole pages, at most`,
      of('bytes', ({ did }) => (did.pageImages * PAGE_BYTES) / count),
    ),
    row(
      `${what}: checkpoints meanwhile`,
      of('', ({ did }) => did.checkpoints),
    ),
    row(
      `${what}: vacuums meanwhile`,
      of('', ({ did }) => did.vacuums),
    ),
    atMost(
      `${what}: longest purge transaction seen`,
      of('ms', ({ longestMs }) => longestMs),
      LONGEST_TRANSACTION_MS,
    ),
  ];
}

async function purgeOf(bench: Bench, count: number): Promise<Purge> {
  const database = await bench.database();
  await database.fill(count, { bodyBytes: EXPIRED_BODY_BYTES, expired: true });
  const server = await bench.server('library', { database });
  await bench.warmUp([server]);
  const endOfBefore = busyProcessors();
  const before = await foreground(server, delay(bench.pick(2000, 15_000)));
  const busyBefore = endOfBefore();

  const workBefore = await workOf(database);
  const endOfPurge = busyProcessors();
  const began = performance.now();
  let seconds = 0;
  const purging = server.ask({ do: 'purge' }).then((deleted) => {
    seconds = (performance.now() - began) / 1000;
    return deleted as number;
  });
  const [during, longestMs, deleted] = await Promise.all([
    foreground(server, purging),
    longestTransaction(database, purging),
    purging,
  ]);
  const busyDuring = endOfPurge();
  const did = difference(workBefore, await workOf(database));
  if (deleted !== count) {
    throw new Error(`purge() deleted ${deleted} of ${count} expired keys`);
  }
  await server.stop();
  await database.query('truncate idempotency_keys'); // the disk is needed for the next round
  return {
    perSecond: deleted / seconds,
    p99Before: quantile(before, 0.99),
    p99During: quantile(during, 0.99),
    longestMs,
    busyBefore,
    busyDuring,
    did,
  };
}

/** Begins to count; what it gives tells how busy they were since. */
function busyProcessors(): () => number {
  const before = processorTimes();
  return () => {
    const after = processorTimes();
    return (after.busy - before.busy) / (after.all - before.all);
  };
}

function processorTimes(): { busy: number; all: number } {
  const times = cpus().map(({ times: { user, nice, sys, irq, idle } }) => ({ busy: user + nice + sys + irq, idle }));
  const busy = times.reduce((sum, time) => sum + time.busy, 0);
  return { busy, all: busy + times.reduce((sum, time) => sum + time.idle, 0) };
}

async function workOf(database: Database): Promise<ServerWork> {
  await database.query('select pg_stat_force_next_flush()');
  return {
    walBytes: await database.number('select wal_bytes from pg_stat_wal'),
    pageImages: await database.number('select wal_fpi from pg_stat_wal'),
    checkpoints: await database.number('select num_done from pg_stat_checkpointer'),
    vacuums: await database.number(
      `select autovacuum_count from pg_stat_user_tables where relname = 'idempotency_keys'`,
    ),
  };
}

function difference(before: ServerWork, after: ServerWork): ServerWork {
  return {
    walBytes: after.walBytes - before.walBytes,
    pageImages: after.pageImages - before.pageImages,
    checkpoints: after.checkpoints - before.checkpoints,
    vacuums: after.vacuums - before.vacuums,
  };
}

function foreground(server: Server, until: Promise<unknown>): Promise<number[]> {
  return pacedLoad({ url: server.url(), perSecond: FOREGROUND, body: ONE_KB, keys: uniqueKeys, until });
}

/** Looked at every few milliseconds, from outside: a lower bound, but of whatever the purge is made of. */
async function longestTransaction(database: Database, until: Promise<unknown>): Promise<number> {
  const over = new AbortController();
  const end = (): void => over.abort();
  until.then(end, end);
  let longest = 0;
  while (!over.signal.aborted) {
    const age = await database.number(
      `select coalesce(max(extract(epoch from clock_timestamp() - xact_start) * 1000), 0)
       from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and query ~* 'delete\\s+from\\s.*idempotency_keys'`,
    );
    longest = Math.max(longest, age);
    await delay(5);
  }
  return longest;
}
