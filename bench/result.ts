import type { Figure } from './statistics.js';

/** A line of the table. */
export interface Row {
  name: string;
  /** The figure, or why there is none. */
  reached: Figure | string;
  target?: string;
  /** Whether the target is reached; absent where there is none. */
  pass?: boolean;
}

export interface ScenarioResult {
  title: string;
  rows: Row[];
  /** What the chart and docs/performance.md are made of. */
  series?: Record<string, unknown>;
}

export function row(name: string, reached: Figure | string): Row {
  return { name, reached };
}

export function atMost(name: string, reached: Figure, limit: number): Row {
  return { name, reached, target: `≤ ${limit}${unitOf(reached)}`, pass: reached.median <= limit };
}

export function atLeast(name: string, reached: Figure, limit: number): Row {
  return { name, reached, target: `≥ ${limit}${unitOf(reached)}`, pass: reached.median >= limit };
}

function unitOf({ unit }: Figure): string {
  return unit === '×' || unit === '' ? unit : ` ${unit}`;
}
