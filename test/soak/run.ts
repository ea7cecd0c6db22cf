/**
 * Two instances of an application under steady traffic, for as long as is asked for: `npm run test:soak -- --minutes 10`.
 * Fails when their heaps, timers, connections or the table grow.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Leak, LEAKS } from './app/protocol.js';
import { runSoak, type SoakSummary } from './soak.js';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    rate: { type: 'string', default: '40' },
    seed: { type: 'string', default: '1' },
    leak: { type: 'string' },
    summary: { type: 'string' },
  },
});
if (values.leak !== undefined && !(LEAKS as readonly string[]).includes(values.leak)) {
  throw new Error(`There is no leak "${values.leak}". There are: ${LEAKS.join(', ')}`);
}

const summary = await runSoak({
  minutes: Number(values.minutes),
  keysPerSecond: Number(values.rate),
  seed: values.seed,
  leak: values.leak as Leak | undefined,
  log: console.log,
});
print(summary);
if (values.summary !== undefined) {
  writeFileSync(values.summary, `${JSON.stringify(summary, undefined, 2)}\n`);
}
process.exitCode = summary.complaints.length > 0 || summary.findings.some(({ kept }) => !kept) ? 1 : 0;

function print({ minutes, tally, requestsPerSecond, findings, complaints }: SoakSummary): void {
  const counts = Object.entries(tally).map(([name, count]) => `${name} ${count}`);
  console.log(`\n${minutes} minutes, ${requestsPerSecond} requests a second: ${counts.join(', ')}\n`);
  const table = [
    ['', 'second third', 'last third', 'at most', ''],
    ...findings.map(({ what, unit, before, after, limit, kept }) => {
      const show = (value: number): string => (unit === 'MB' ? (value / 1e6).toFixed(1) : String(Math.round(value)));
      const name = unit === '' ? what : `${what}, ${unit}`;
      return [name, show(before), show(after), limit === undefined ? '' : show(limit), kept ? '' : 'GROWS'];
    }),
  ];
  const width = Math.max(...table.map(([name]) => name!.length));
  for (const [name, ...cells] of table) {
    console.log([name!.padEnd(width), ...cells.map((cell) => cell.padStart(13))].join('').trimEnd());
  }
  complaints.forEach((complaint) => console.log(`COMPLAINT ${complaint}`));
}
