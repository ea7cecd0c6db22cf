import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { waitFor } from '../support/wait-for.js';
import type { Prometheus } from './prometheus.js';
import { say } from './say.js';

interface Dashboard {
  panels: { title: string; targets?: { expr: string }[] }[];
  templating: { list: { name: string; definition?: string }[] };
}

interface Query {
  title: string;
  expression: string;
}

const dashboard = JSON.parse(readFileSync('docs/monitoring/grafana-dashboard.json', 'utf8')) as Dashboard;

/** As Grafana fills them in, with all of each variable chosen. */
function filledIn(expression: string): string {
  const filled = expression.replaceAll('$__rate_interval', '1m').replaceAll('$job', '.*').replaceAll('$route', '.*');
  assert(!filled.includes('$'), `${expression} has a variable that is not known here`);
  return filled;
}

export function queriesOf(title?: string): Query[] {
  return dashboard.panels
    .filter((panel) => title === undefined || panel.title === title)
    .flatMap(({ title: of, targets = [] }) => targets.map(({ expr }) => ({ title: of, expression: filledIn(expr) })));
}

/** Each query of a panel, and of a variable, has series, at least one of them with a number. */
export async function watchDashboard(prometheus: Prometheus): Promise<void> {
  const queries = queriesOf();
  for (const { title, expression } of queries) {
    await waitFor(async () => (await prometheus.query(expression)).some(({ value }) => Number.isFinite(value)), {
      timeoutMs: 30_000,
      what: `a number in the panel "${title}": ${expression}`,
    });
  }
  const variables = dashboard.templating.list.flatMap(({ definition }) => definition ?? []);
  for (const definition of variables) {
    const [, series, label] = /^label_values\((.*), (\w+)\)$/.exec(definition) ?? [];
    const found = await prometheus.query(filledIn(series!));
    assert(
      found.some(({ labels }) => labels[label!] !== undefined),
      `${definition} has no value`,
    );
  }
  say(`${queries.length} queries of the dashboard and ${variables.length} variables have series`);
}
