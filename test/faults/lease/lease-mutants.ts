import type { Mutant } from '../mutants.js';

const HANDLER_CONTEXT = 'src/requests/handler-context.ts';
const DURABLE_STEPS = 'src/modes/lease/durable-steps.ts';
const LEASE_HOLD = 'src/modes/lease/lease-hold.ts';
const LEASED_CLAIM = 'src/modes/lease/leased-claim.ts';
const STEP_MEMORY = 'src/modes/lease/step-memory.ts';
const LEASE_VALUES = 'src/postgres/statements/lease-claim.ts';
const LEASE_STORE = 'src/postgres/statements/lease-store.ts';
const LEASE_STATEMENTS = 'src/postgres/statements/lease-statements.ts';
const LEASE_CLAIM = 'src/postgres/statements/plain-lease-claim.ts';

/** What `HELD` says, but for the fencing token. */
const UNFENCED = 'scope = $1::text and key = $2::text and $3::uuid is not null and response_status is null';

export const LEASE_MUTANTS: readonly Mutant[] = [
  {
    name: 'lease: response recorded without the fence',
    expected: ['recorded by a former holder', 'answer without record'],
    changes: [
      {
        file: LEASE_STATEMENTS,
        from: "$8::float8 * interval '1 millisecond'\n          where ${HELD}",
        to: `$8::float8 * interval '1 millisecond'\n          where ${UNFENCED}`,
      },
    ],
  },
  {
    name: 'lease: step stored without the fence',
    expected: ['step of a former holder', 'effect doubled', 'finished step run again'],
    changes: [
      {
        file: LEASE_STATEMENTS,
        from: '(select execution_id from ${keys} where ${HELD} for share)',
        to: `(select execution_id from \${keys} where ${UNFENCED} for share)`,
      },
    ],
  },
  {
    name: 'lease: step stored without a lock against a takeover',
    expected: ['step of a former holder', 'effect doubled', 'finished step run again'],
    changes: [
      {
        file: LEASE_STATEMENTS,
        from: '(select execution_id from ${keys} where ${HELD} for share)',
        to: '(select execution_id from ${keys} where ${HELD})',
      },
      {
        file: LEASE_STATEMENTS,
        from: 'select 1 from ${keys} where ${HELD} for share',
        to: 'select 1 from ${keys} where ${HELD}',
      },
    ],
  },
  {
    name: 'lease: renewed without the fence',
    expected: ['renewed by a former holder'],
    changes: [
      {
        file: LEASE_STATEMENTS,
        from: "when expires_at = 'infinity' then expires_at end)\n        where ${HELD}",
        to: `when expires_at = 'infinity' then expires_at end)\n        where ${UNFENCED}`,
      },
    ],
  },
  {
    name: 'lease: released without the fence',
    expected: ['released by a former holder'],
    changes: [
      {
        file: LEASE_STATEMENTS,
        from: "$4::float8 * interval '1 millisecond'\n          where ${HELD}\n          returning execution_id),\n        --",
        to: `$4::float8 * interval '1 millisecond'\n          where ${UNFENCED}\n          returning execution_id),\n        --`,
      },
    ],
  },
  {
    name: 'lease: a claim that inserts nothing',
    expected: ['key stuck'],
    changes: [{ file: LEASE_CLAIM, from: '(select count(*) from gone) >= 0', to: '(select count(*) from gone) > 0' }],
  },
  {
    name: 'lease: taken over although it lives',
    expected: ['live lease taken'],
    changes: [
      { file: LEASE_CLAIM, from: ' or taken.lease_expires_at > at', to: '' },
      { file: LEASE_CLAIM, from: '(k.lease_expires_at <= excluded.created_at and $10::bool)', to: '$10::bool' },
    ],
  },
  {
    name: 'lease: finished steps not remembered',
    expected: ['finished step run again', 'effect doubled', 'effect without memory'],
    changes: [{ file: DURABLE_STEPS, from: 'if (known !== undefined) {', to: "if (known?.name === '') {" }],
  },
  {
    name: 'lease: downstream key differs by attempt',
    expected: ['effect at the provider doubled'],
    changes: [
      {
        file: HANDLER_CONTEXT,
        from: 'return downstreamKey(request.scope, key ?? request.seed!, step, options, usedUp)',
        to: 'return downstreamKey(request.scope, key ?? request.seed!, `${step} ${run.attempt}`, options, usedUp)',
      },
    ],
  },
  {
    name: "lease: 'fail' treated as 'resume'",
    expected: ['interrupted operation run again'],
    changes: [{ file: LEASE_VALUES, from: "return options.onInterrupted === 'resume'", to: 'return true' }],
  },
  {
    name: "lease: a transaction step's memory committed behind its writes",
    expected: ['effect without memory'],
    changes: [
      {
        file: LEASE_STORE,
        from: '{ statement: this.statements.checkConstraints },\n',
        to: "{ statement: this.statements.checkConstraints },\n{ statement: this.statements.commit },\n{ statement: BEGIN['READ COMMITTED'] },\n",
      },
      { file: LEASE_STORE, from: 'this.isDistributed ? null : marker', to: 'null' },
    ],
  },
  {
    name: 'lease: synchronous_commit left off',
    expected: [
      'answer without record',
      'replay differs',
      'effect without memory',
      'step finished twice',
      'finished step run again',
      'step run twice in an attempt',
      'key stuck',
    ],
    faults: { postgres: true },
    changes: [
      {
        file: LEASE_STATEMENTS,
        from: "durable: { id: 'lease_durable', text: `select ${DURABLE_COMMIT}, ${READABLE_LITERALS}` },",
        to: "durable: { id: 'lease_durable', text: 'select 1' },",
      },
    ],
  },
  {
    name: 'lease: renewals stop at the time limit',
    expected: ['key stuck'],
    changes: [
      {
        file: LEASE_HOLD,
        from: 'const isAtWork = this.cancelledBecause === undefined || this.stepsRunning > 0;',
        to: 'const isAtWork = this.cancelledBecause === undefined;',
      },
    ],
  },
  {
    name: 'lease: given back although a step runs',
    expected: ['effect repeated without a cause'],
    changes: [
      {
        file: LEASED_CLAIM,
        from: 'await this.tools.close();\n    if (this.tools.waitForOperator) {',
        to: 'if (this.tools.waitForOperator) {',
      },
    ],
  },
  {
    name: 'lease: the order of steps decides, though latency made it',
    expected: ['unexpected answer', 'key stuck'],
    changes: [
      { file: STEP_MEMORY, from: 'this.runsSideBySide ||= this.entered.size > this.ended;', to: '' },
      {
        file: STEP_MEMORY,
        from: 'positions.size < finished.length || positions.has(ANY_POSITION)',
        to: 'positions.has(ANY_POSITION)',
      },
      {
        file: STEP_MEMORY,
        from: "{ reason: 'steps-reordered', steps: [...this.outOfTurn] }",
        to: "{ reason: 'steps-changed', steps: [...this.outOfTurn] }",
      },
    ],
  },
  {
    name: 'lease: a caught failure forgotten',
    expected: ['caught failure forgotten', 'unexpected answer', 'key stuck'],
    changes: [
      {
        file: DURABLE_STEPS,
        from: 'await this.failures.store((step) => this.hold.remember(step));',
        to: '',
      },
    ],
  },
  {
    name: 'lease, partitions: a fenced-off holder recognised by the name of the table',
    expected: ['unexpected answer'],
    partitioned: true,
    changes: [
      {
        file: LEASE_STORE,
        from: "failed === this.statements.step\n      ? nullColumnOf(error, ['attempt'])",
        to: `(postgresErrorOf(error) as { table?: string }).table === 'idempotency_steps'\n      ? nullColumnOf(error, ['attempt'])`,
      },
    ],
  },
].map((mutant) => ({ ...mutant, scenario: 'lease' as const }));
