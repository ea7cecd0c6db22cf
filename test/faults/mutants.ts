import { LEASE_MUTANTS } from './lease/lease-mutants.js';
import type { Violation } from './oracle.js';
import type { ScenarioName } from './scenario.js';

type Rule = Violation['rule'];

/** A bug that the suite must find: one protection of the library switched off, alone. */
export interface Mutant {
  name: string;
  /** What it is hunted by. @default 'transaction' */
  scenario?: ScenarioName;
  /** What it breaks, seen from outside; the suite must report at least one of these. */
  expected: readonly Rule[];
  /** What has to go wrong for the bug to show; without any, traffic alone shows it. */
  faults?: Faults;
  /** Shows on partitioned tables only. */
  partitioned?: boolean;
  changes: readonly Change[];
}

/** Which faults strike. */
export interface Faults {
  /** SIGKILL of the application. */
  kills?: boolean;
  /** kill -9 of PostgreSQL, and of its sessions. */
  postgres?: boolean;
  /** Connections cut and stalled. */
  proxy?: boolean;
}

interface Change {
  file: string;
  from: string;
  to: string;
}

const RUNNING_REQUESTS = 'src/requests/running-requests.ts';
const OUTCOME = 'src/modes/outcome.ts';
const REQUEST_RUN = 'src/requests/request-run.ts';
const VERDICT = 'src/requests/verdict.ts';
const KEY_STORE = 'src/postgres/statements/key-store.ts';
const KEY_STATEMENTS = 'src/postgres/statements/key-statements.ts';
const EXPIRED_KEYS = 'src/postgres/statements/expired-keys.ts';
const SHARED_STATEMENTS = 'src/postgres/statements/shared-statements.ts';
const SESSION_SETTINGS = 'src/postgres/session-settings.ts';
const AMBIENT = 'src/postgres/ambient/ambient-transactions.ts';
const LATE_WORK = 'src/util/late-work.ts';
const OWNED = 'src/postgres/owned-transaction.ts';
const RECORDED_RESPONSE = 'src/http/recorded-response.ts';
const SEND_RECORDED = 'src/http/response/send-recorded.ts';

const INSERT_ARBITER = 'created_at = case when k.expires_at <= excluded.created_at then excluded.created_at end,';

/** Repeated where the rows are deleted. */
const PURGE_CONDITION =
  ' and (tableoid, ctid) in (select part, place from due)\n                and expires_at <= clock_timestamp()\n              returning';

const LOCK_NOT_REAL: readonly Change[] = [
  {
    file: KEY_STATEMENTS,
    from: 'text: `select pg_try_advisory_xact_lock($1::int8),',
    to: 'text: `select $1::int8 is not null,',
  },
  // In one process the map of running keys would hide it.
  { file: RUNNING_REQUESTS, from: 'this.running.set(name, running);', to: '' },
];

const ROLLBACK_TIMER = "setTimeout(() => connection.destroy(new Error('the rollback was not answered')), limitMs)";
const ROLLBACK_LIMIT = `const limit = ${ROLLBACK_TIMER};`;

/** A handler's connection is let fall quiet first; that of a look-up is not. */
function rollbackLimit(limit: string): Mutant['changes'] {
  return [
    {
      file: OWNED,
      from: "await this.undo(isQuiet ? 'quiet' : 'busy');",
      to: "await this.undo(isQuiet ? 'quiet' : 'busy', untilQuiet !== undefined);",
    },
    {
      file: OWNED,
      from: "undo(state: 'quiet' | 'busy'): Promise<void>",
      to: "undo(state: 'quiet' | 'busy', isHandlers = true): Promise<void>",
    },
    { file: OWNED, from: ROLLBACK_LIMIT, to: `const limit = ${limit};` },
  ];
}

export const MUTANTS: readonly Mutant[] = [
  {
    name: 'record after COMMIT, in a second transaction',
    expected: ['effect without record'],
    changes: [
      {
        file: KEY_STORE,
        from: `putBackSession(settings),
        { statement: insert, values: insertValues(record, settings.marker) },`,
        to: `{ statement: commit },
      ]);
      results = await runBatch(client, this.prepared, [
        { statement: this.statements.begin.default },
        { statement: insert, values: insertValues(record, settings.marker) },`,
      },
      {
        file: KEY_STATEMENTS,
        from: 'case when ${TRANSACTION_MARKER} = $13::text then $7::uuid end,',
        to: 'case when $13::text is not null then $7::uuid end,',
      },
    ],
  },
  {
    name: 'send before COMMIT',
    expected: ['answer without effect', 'answer without record', 'replay differs'],
    faults: { kills: true, postgres: true, proxy: true },
    changes: [
      {
        file: REQUEST_RUN,
        from: 'const result = await this.claim.record(',
        to: 'this.exchange.letGo();\n    const result = await this.claim.record(',
      },
    ],
  },
  {
    name: "error stored without rolling the handler's writes back",
    expected: ['effect without record', 'record without effect'],
    changes: [
      {
        file: KEY_STORE,
        from: '? [{ statement: undo }, { statement: unlock }]',
        to: '? [{ statement: checkConstraints }]',
      },
    ],
  },
  {
    name: "lock not real, and the INSERT's result ignored",
    expected: ['effect doubled', 'record replaced'],
    changes: [
      ...LOCK_NOT_REAL,
      { file: KEY_STATEMENTS, from: INSERT_ARBITER, to: 'created_at = excluded.created_at,' },
    ],
  },
  {
    name: 'fingerprint ignored',
    expected: ['changed payload accepted'],
    changes: [{ file: OUTCOME, from: '? fingerprint.equals(own)', to: '? true' }],
  },
  {
    name: "expiry by the application's clock",
    expected: ['effect doubled', 'record replaced'],
    changes: [
      {
        file: SHARED_STATEMENTS,
        from: 'where scope = $1::text and key = $2::text and expires_at > clock_timestamp()',
        to: 'where scope = $1::text and key = $2::text and expires_at > $3::timestamptz',
      },
      {
        file: KEY_STORE,
        from: 'values: [request.scope, request.key] }',
        to: 'values: [request.scope, request.key, new Date().toISOString()] }',
      },
      {
        file: KEY_STORE,
        from: 'values: [identity.scope, identity.key] }',
        to: 'values: [identity.scope, identity.key, new Date().toISOString()] }',
      },
      { file: KEY_STORE, from: 'values: [scope, key] }', to: 'values: [scope, key, new Date().toISOString()] }' },
      {
        file: KEY_STATEMENTS,
        from: INSERT_ARBITER,
        to: INSERT_ARBITER.replace('<= excluded.created_at', '<= $15::timestamptz'),
      },
      {
        file: KEY_STATEMENTS,
        from: '    request.traceContext ?? null,\n  ];',
        to: '    request.traceContext ?? null,\n    new Date().toISOString(),\n  ];',
      },
    ],
  },
  {
    name: 'late writes of a rolled-back handler escape',
    expected: ['effect without record'],
    changes: [
      {
        file: AMBIENT,
        from: 'this.transaction()?.assertNotLost();',
        to: '',
      },
    ],
  },
  {
    name: 'tombstone run again',
    expected: ['effect doubled', 'record replaced'],
    changes: [
      {
        file: KEY_STORE,
        from: 'return row === undefined ? undefined : foundKeyOf(row);',
        to: 'return row === undefined || row[5] === null ? undefined : foundKeyOf(row);',
      },
      {
        file: KEY_STATEMENTS,
        from: INSERT_ARBITER,
        to: INSERT_ARBITER.replace('then', 'or k.response_body is null then'),
      },
    ],
  },
  {
    name: 'synchronous_commit left off',
    expected: ['answer without record', 'answer without effect', 'replay differs'],
    faults: { postgres: true },
    changes: [
      {
        file: SHARED_STATEMENTS,
        from: "then set_config('synchronous_commit', 'on', true) else",
        to: "then 'off' else",
      },
    ],
  },
  {
    name: 'COMMIT believed whatever its tag',
    expected: ['answer without record', 'answer without effect'],
    changes: [
      {
        file: KEY_STORE,
        from: 'throw this.explain(error);',
        // with a row as that of the record, whose time is read behind it
        to: "results = [{ tag: '', rows: [['0']] }, ...(await runBatch(client, this.prepared, [{ statement: commit }]))];",
      },
      { file: KEY_STORE, from: "if (tag !== 'COMMIT') {", to: 'if (tag === undefined) {' },
    ],
  },
  {
    name: 'COMMIT without an answer taken for a success',
    expected: ['answer without record', 'answer without effect', 'replay differs'],
    faults: { proxy: true },
    changes: [
      {
        file: REQUEST_RUN,
        from: '? await claims.outcomeOfLostCommit(this.claim, this.request)',
        to: "? ({ kind: 'recorded', expiresAt: new Date() } as const)",
      },
    ],
  },
  {
    name: 'handler outside of the transaction, on the root DataSource',
    expected: ['effect without record'],
    changes: [
      {
        file: AMBIENT,
        from: 'if (transactions.serve(driver)) {',
        to: 'if (false as boolean) {',
      },
    ],
  },
  {
    name: 'marker of the transaction in a setting, which RESET ALL takes away',
    expected: ['key stuck', 'unexpected answer'],
    changes: [
      {
        file: SESSION_SETTINGS,
        from: "= `pg_backend_pid() || ' ' || (extract(epoch from transaction_timestamp()) * 1000000)::int8`",
        to: "= `current_setting('nestjs_idempotency.marker', true)`",
      },
      {
        file: SESSION_SETTINGS,
        from: 'return `${TRANSACTION_MARKER},',
        to: "return `set_config('nestjs_idempotency.marker', gen_random_uuid()::text, true),",
      },
    ],
  },
  {
    name: 'locks of the session left on the connection of a failed handler',
    expected: ['session left behind'],
    changes: [
      { file: KEY_STORE, from: '{ statement: rollback }, { statement: unlock }', to: '{ statement: rollback }' },
    ],
  },
  {
    name: 'late writes let through as soon as the request is over',
    expected: ['effect without record'],
    changes: [
      {
        file: LATE_WORK,
        from: 'return this.isPast && clock.now() - this.since! >= REFUSED_FOR_MS;',
        to: 'return this.isOver;',
      },
    ],
  },
  {
    name: 'COMMIT cancelled at the time limit',
    expected: ['COMMIT cancelled'],
    faults: { proxy: true },
    changes: [
      { file: OWNED, from: "if (this.commitSent) {\n      this.end('unknown');", to: 'if (false as boolean) {' },
    ],
  },
  {
    name: '5xx recorded',
    expected: ['key stuck', 'record without effect'],
    changes: [{ file: VERDICT, from: 'if (status >= 500 ||', to: 'if (status >= 600 ||' }],
  },
  {
    name: 'purge of keys that have not expired',
    expected: ['record purged', 'record lost', 'record changed', 'effect doubled'],
    changes: [
      {
        file: EXPIRED_KEYS,
        from: 'where expires_at <= clock_timestamp() and (select mine from turn)',
        to: 'where (select mine from turn)',
      },
      { file: EXPIRED_KEYS, from: PURGE_CONDITION, to: ' returning' },
    ],
  },
  {
    name: "partitions: a row's place taken for its identity by the purge of keys",
    expected: ['record purged', 'record lost', 'record changed', 'effect doubled'],
    partitioned: true,
    changes: [{ file: EXPIRED_KEYS, from: PURGE_CONDITION, to: ' returning' }],
  },
  {
    name: 'partitions: a lost key recognised by the name of the table',
    expected: ['unexpected answer'],
    partitioned: true,
    changes: [
      ...LOCK_NOT_REAL,
      {
        file: KEY_STORE,
        from: 'failedStatement(error) === this.statements.insert',
        to: `(cause as { table?: string }).table === 'idempotency_keys'`,
      },
    ],
  },
  {
    name: 'fails open: without a claim the handler runs all the same',
    expected: ['effect without record', 'recorded key executed', 'unexpected answer'],
    faults: { postgres: true, proxy: true },
    changes: [
      {
        file: REQUEST_RUN,
        from: `    } catch (error) {
      this.refuse(error);`,
        to: `    } catch (error) {
      if ((error as { getStatus?(): number }).getStatus?.() === 503) {
        this.handle().subscribe(this.outer);
        return;
      }
      this.refuse(error);`,
      },
    ],
  },
  {
    name: 'connection given back inside its transaction',
    expected: ['effect without record', 'half an effect', 'unexpected answer', 'answer without record', 'key stuck'],
    changes: [
      {
        file: OWNED,
        from: 'await this.store.rollback(connection.client);',
        to: 'await Promise.resolve();',
      },
    ],
  },
  {
    name: 'ROLLBACK of a look-up waited for without a limit',
    expected: ['connection leaked', 'recorded key in flight', 'key stuck'],
    faults: { proxy: true },
    changes: rollbackLimit(`isHandlers ? ${ROLLBACK_TIMER} : undefined`),
  },
  {
    name: 'ROLLBACK of a failed handler waited for without a limit',
    expected: ['connection leaked', 'recorded key in flight', 'key stuck'],
    faults: { proxy: true },
    changes: rollbackLimit(`isHandlers ? undefined : ${ROLLBACK_TIMER}`),
  },
  {
    name: 'bytes re-encoded on their way through the table',
    expected: ['replay differs'],
    changes: [
      {
        file: SHARED_STATEMENTS,
        from: "body: body === null ? null : Buffer.from(body, 'hex'),",
        to: "body: body === null ? null : Buffer.from(Buffer.from(body, 'hex').toString('ascii')),",
      },
    ],
  },
  {
    name: 'replay without its status',
    expected: ['unexpected answer', 'recorded key executed', 'key stuck', 'replay differs'],
    changes: [{ file: SEND_RECORDED, from: 'response.statusCode = status;', to: 'response.statusCode = 200;' }],
  },
  {
    name: 'Content-Type not replayed',
    expected: ['replay differs'],
    changes: [{ file: RECORDED_RESPONSE, from: '/^(?:connection|', to: '/^(?:connection|content-type|' }],
  },
  ...LEASE_MUTANTS,
];

/** The changed files with their new text. What does not match exactly once is an error: mutants must not rot unseen. */
export function applyMutant(mutant: Mutant, read: (path: string) => string): Map<string, string> {
  const patched = new Map<string, string>();
  for (const { file, from, to } of mutant.changes) {
    const parts = (patched.get(file) ?? read(file)).split(from);
    if (parts.length !== 2) {
      throw new Error(`Mutant "${mutant.name}": ${parts.length - 1} matches instead of one in ${file} for\n${from}`);
    }
    patched.set(file, parts.join(to));
  }
  return patched;
}
