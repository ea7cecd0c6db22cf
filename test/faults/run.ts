import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { huntMutants } from './hunt.js';
import { MUTANTS } from './mutants.js';
import { printSummary } from './report.js';
import type { ScenarioName } from './scenario.js';
import { runSuite } from './suite.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    scenario: { type: 'string' },
    seconds: { type: 'string', default: '60' },
    'round-seconds': { type: 'string', default: '20' },
    clients: { type: 'string', default: '24' },
    passages: { type: 'string', default: '12' },
    requests: { type: 'string', default: '0' },
    kills: { type: 'string', default: '0' },
    'kills-each': { type: 'string', default: '1' },
    'postgres-kills': { type: 'string', default: '3' },
    'proxy-faults': { type: 'string', default: '1' },
    partitioned: { type: 'boolean', default: false },
    summary: { type: 'string' },
    mutant: { type: 'string' },
    mutants: { type: 'boolean', default: false },
  },
});

if (values.mutants) {
  const catches = await huntMutants(
    MUTANTS.filter(({ name }) => name.includes(values.mutant ?? '')),
    values.seed,
    console.log,
  );
  writeSummary(catches);
  process.exitCode = catches.every(({ caught }) => caught) ? 0 : 1;
} else {
  await runOnce();
}

async function runOnce(): Promise<void> {
  const mutant = MUTANTS.find(({ name }) => name === values.mutant);
  if (values.mutant !== undefined && mutant === undefined) {
    throw new Error(`There is no mutant "${values.mutant}". There are:\n${MUTANTS.map(({ name }) => name).join('\n')}`);
  }
  const summary = await runSuite({
    seed: values.seed,
    scenarios: scenarios(mutant?.scenario),
    seconds: Number(values.seconds),
    roundSeconds: Number(values['round-seconds']),
    clients: Number(values.clients),
    instances: { direct: 2, proxied: 2 },
    goals: {
      requests: Number(values.requests),
      kills: Number(values.kills),
      killsAtEachFailpoint: Number(values['kills-each']),
      postgresKills: Number(values['postgres-kills']),
      proxyFaultsOfEachKind: Number(values['proxy-faults']),
    },
    faults: {
      kills: Number(values['kills-each']) > 0,
      postgres: Number(values['postgres-kills']) > 0,
      proxy: Number(values['proxy-faults']) > 0,
    },
    passages: Number(values.passages),
    untilViolation: mutant !== undefined,
    partitioned: values.partitioned || mutant?.partitioned === true,
    mutant,
    log: console.log,
  });
  printSummary(summary);
  writeSummary(summary);
  process.exitCode = summary.violations.length > 0 || summary.missed.length > 0 ? 1 : 0;
}

function scenarios(mutants: ScenarioName | undefined): ScenarioName[] {
  const name = mutants ?? values.scenario;
  if (name !== undefined && name !== 'transaction' && name !== 'lease') {
    throw new Error(`There is no scenario "${name}". There are: transaction, lease.`);
  }
  return name === undefined ? ['transaction', 'lease'] : [name];
}

function writeSummary(summary: object): void {
  if (values.summary !== undefined) {
    writeFileSync(values.summary, `${JSON.stringify(summary, undefined, 2)}\n`);
  }
}
