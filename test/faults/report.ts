import type { Summary } from './suite.js';
import type { Tally } from './tally.js';

/** What was done, and what came of it, for a terminal. */
export function printSummary({ tally, violations, missed, historyFiles, ...run }: Summary): void {
  const rows: [string, number | string][] = [
    ['seed', run.seed],
    ['scenarios', run.scenarios.join(', ')],
    ['seconds', run.seconds],
    ['rounds', run.rounds],
    ['requests', tally.requests],
    ['requests a second', run.requestsPerSecond],
    ['keys', tally.keys],
    ['clients that went away', tally.clientAborts],
    ['keys back-dated', tally.backDatedKeys],
    ['keys purged', tally.purgedKeys],
    ['SIGKILL of the application', tally.kills],
    ...struck(tally.killsAt).map(([name, count]): [string, number] => [`  at "${name}"`, count]),
    ['  at any moment', tally.killsAnywhere],
    ...(run.scenarios.includes('lease') ? leaseRows(tally) : []),
    ['kill -9 of PostgreSQL', tally.postgresKills],
    ['kill -9 of a session', tally.backendKills],
    ['pg_terminate_backend', tally.terminatedBackends],
    ...struck(tally.proxyFaults).map(([name, count]): [string, number] => [`proxy: ${name}`, count]),
    ['violations', violations.length],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  console.log(rows.map(([name, value]) => `${name.padEnd(width)}  ${String(value).padStart(9)}`).join('\n'));
  missed.forEach((what) => console.log(`NOT REACHED ${what}`));
  for (const rule of new Set(violations.map((violation) => violation.rule))) {
    const found = violations.filter((violation) => violation.rule === rule);
    console.log(`VIOLATION ${rule}: ${found.length} times`);
    found.slice(0, 5).forEach(({ key, detail }) => console.log(`  ${key}: ${detail}`));
  }
  historyFiles.forEach((file) => console.log(`The requests are in ${file}`));
}

/** What should have struck and did not is told apart. */
function struck(counts: Record<string, number>): [name: string, count: number][] {
  return Object.entries(counts).filter(([, count]) => count > 0);
}

function leaseRows(tally: Tally): [string, number][] {
  return [
    ['instances frozen for longer than a lease', tally.pauses],
    ['leases back-dated', tally.backDatedLeases],
    ['leases renewed', tally.renewals],
    ['operations taken over', tally.takeovers],
    ['operations gone on with after a failure', tally.resumptions],
    ['decisions of an operator', tally.decisions],
    ['calls to the provider', tally.providerCalls],
    ['steps that called it', tally.providerSteps],
    ['effects at the provider', tally.providerEffects],
    ['steps whose provider knows no keys', tally.unkeyedSteps],
    ['effects of those', tally.unkeyedEffects],
  ];
}
