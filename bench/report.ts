import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { format, resolveConfig } from 'prettier';
import type { Row, ScenarioResult } from './result.js';
import type { Figure } from './statistics.js';
import { VARIANTS } from './variants.js';

const RESULTS = join(import.meta.dirname, 'results');

export interface Report {
  machine: Record<string, string | number>;
  /** Whether the run was too short for its figures to be quoted. */
  quick: boolean;
  variants: typeof VARIANTS;
  /** With the run that measured them. */
  scenarios: Record<number, ScenarioResult & { date: string; command: string }>;
}

/** What is on file from earlier runs, unless it was another machine or another kind of run: a run may be of one scenario. */
export async function earlierScenarios({ machine, quick }: Report): Promise<Report['scenarios']> {
  const text = await readFile(join(RESULTS, 'latest.json'), 'utf8').catch(() => undefined);
  const earlier = text === undefined ? undefined : (JSON.parse(text) as Report);
  const isAlike = isDeepStrictEqual([earlier?.machine, earlier?.quick], [machine, quick]);
  return earlier !== undefined && isAlike ? earlier.scenarios : {};
}

export function describeMachine(postgres: string): Report['machine'] {
  const processors = cpus();
  return {
    cpus: processors.length,
    model: processors[0]?.model ?? 'unknown',
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
    postgres,
  };
}

export function printScenario({ title, rows }: ScenarioResult): void {
  const lines = rows.map(({ name, reached, target = '', pass }) => [
    name,
    ...describe(reached),
    target,
    pass === undefined ? '' : pass ? 'pass' : 'FAIL',
  ]);
  const table = [['', 'reached', 'min – max', 'target', ''], ...lines];
  // A sentence in place of a figure takes the rest of its line, and no column grows for it.
  const figures = table.filter((_, index) => typeof rows[index - 1]?.reached !== 'string');
  const widths = table[0]!.map((_, column) =>
    Math.max(...(column === 0 ? table : figures).map((line) => line[column]!.length)),
  );
  process.stdout.write(`\n${title}\n`);
  for (const line of table) {
    process.stdout.write(`  ${line.map((cell, column) => cell.padEnd(widths[column]!)).join('  ')}`.trimEnd() + '\n');
  }
}

export function printCaveats(): void {
  process.stdout.write('\nWhat each does not protect against\n');
  for (const { label, caveat } of VARIANTS) {
    process.stdout.write(`  ${label}: ${caveat}\n`);
  }
}

export function failedTargets(report: Report): Row[] {
  return Object.values(report.scenarios).flatMap(({ rows }) => rows.filter(({ pass }) => pass === false));
}

/** Formatted as everything else in the repository is. */
export async function toJson(report: Report): Promise<string> {
  return format(JSON.stringify(report), { ...(await resolveConfig(import.meta.filename)), parser: 'json' });
}

/** Complete or not at all: a run that is interrupted leaves the results of the one before. */
export async function writeResult(name: string, content: string): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  const file = join(RESULTS, name);
  await writeFile(`${file}.tmp`, content);
  await rename(`${file}.tmp`, file);
}

function describe(reached: Figure | string): [string, string] {
  if (typeof reached === 'string') {
    return [reached, ''];
  }
  const { median, min, max, unit } = reached;
  return [`${number(median)} ${unit}`.trimEnd(), min === max ? '' : `${number(min)} – ${number(max)}`];
}

function number(value: number): string {
  const digits = Math.abs(value) >= 100 ? 0 : 2;
  return value.toLocaleString('en', { maximumFractionDigits: digits });
}
