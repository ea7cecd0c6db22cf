import type { Report } from './report.js';
import type { ThroughputSeries } from './scenarios/throughput.js';
import type { Figure } from './statistics.js';
import { variant, type VariantId } from './variants.js';

const PANEL = { width: 760, height: 300, left: 250, right: 70, top: 44, bottom: 34 };
const COLORS: Partial<Record<VariantId, string>> = { library: '#1a7f5a', floor: '#b8860b', transaction: '#4b6cb7' };
const OTHER = '#9aa3ad';

interface Bar {
  id: VariantId;
  label: string;
  figure: Figure;
}

interface Line {
  label: string;
  color: string;
  points: { x: string; figure: Figure }[];
}

/** Latency by connections, throughput, and growth by stored keys: as much of it as was measured. */
export function drawChart(report: Report): string | undefined {
  const panels = [...throughputPanels(report), ...growthPanel(report)];
  if (panels.length === 0) {
    return undefined;
  }
  const height = panels.length * PANEL.height;
  const { machine } = report;
  const dates = Object.values(report.scenarios).map(({ date }) => date.slice(0, 10));
  const caption = `${machine['cpus']} CPUs, Node.js ${machine['node']}, PostgreSQL ${machine['postgres']}, ${dates.toSorted().at(-1)}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${PANEL.width} ${height + 24}" font-family="system-ui, sans-serif" font-size="12" fill="#222">`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    ...panels.map((panel, index) => `<g transform="translate(0 ${index * PANEL.height})">${panel}</g>`),
    `<text x="12" y="${height + 12}" fill="#666">${escape(caption)}${report.quick ? ', quick run' : ''}. Medians; whiskers from least to most.</text>`,
    '</svg>\n',
  ].join('\n');
}

function throughputPanels({ scenarios }: Report): string[] {
  const series = scenarios[3]?.series as ThroughputSeries | undefined;
  if (series === undefined) {
    return [];
  }
  const compared: VariantId[] = ['transaction', 'floor', 'library'];
  const lines = compared.map((id) => ({
    label: variant(id).label,
    color: COLORS[id] ?? OTHER,
    points: Object.entries(series.p50).map(([x, figures]) => ({ x, figure: figures[id]! })),
  }));
  const first = barsOf(series.perSecond['16'] ?? {});
  return [
    lineChart('p50 of a first request in ms, by connections', lines),
    barChart('First requests per second, 16 connections', first),
    barChart('Replays per second, 16 connections', barsOf(series.replays)),
  ];
}

function barsOf(figures: Record<string, Figure>): Bar[] {
  return Object.entries(figures).map(([id, measured]) => ({
    id: id as VariantId,
    label: variant(id as VariantId).label,
    figure: measured,
  }));
}

function growthPanel({ scenarios }: Report): string[] {
  const series = scenarios[4]?.series as Record<string, { count: number; p50: Figure }[]> | undefined;
  if (series === undefined) {
    return [];
  }
  const colors: Record<string, string> = { 1: '#1a7f5a', 16: '#4b6cb7' };
  const lines = Object.entries(series).map(([connections, points]) => ({
    label: `${connections} connection${connections === '1' ? '' : 's'}`,
    color: colors[connections] ?? OTHER,
    points: points.map(({ count, p50 }) => ({ x: count.toLocaleString('en'), figure: p50 })),
  }));
  return [lineChart('p50 of a first request in ms, by keys stored', lines)];
}

function barChart(title: string, bars: Bar[]): string {
  const { width, height, left, right, top, bottom } = PANEL;
  const most = Math.max(...bars.map((bar) => bar.figure.max));
  const scale = (value: number) => (value / most) * (width - left - right);
  const step = (height - top - bottom) / bars.length;
  const parts = bars.map((bar, index) => {
    const middle = top + step * (index + 0.5);
    const { median, min, max } = bar.figure;
    return [
      `<text x="${left - 8}" y="${middle + 4}" text-anchor="end">${escape(bar.label)}</text>`,
      `<rect x="${left}" y="${middle - step * 0.35}" width="${px(scale(median))}" height="${px(step * 0.7)}" fill="${COLORS[bar.id] ?? OTHER}"/>`,
      whisker(left + scale(min), middle, left + scale(max), middle),
      `<text x="${px(left + scale(max) + 6)}" y="${middle + 4}">${Math.round(median).toLocaleString('en')}</text>`,
    ].join('');
  });
  return heading(title) + parts.join('\n');
}

function lineChart(title: string, lines: Line[]): string {
  const { width, height, left, right, top, bottom } = PANEL;
  const labels = lines[0]?.points.map((point) => point.x) ?? [];
  const most = Math.max(...lines.flatMap(({ points }) => points.map(({ figure }) => figure.max)));
  const x = (index: number) => left + ((width - left - right) * (index + 0.5)) / labels.length;
  const y = (value: number) => height - bottom - (value / most) * (height - top - bottom);
  const axis = [0, most / 2, most].map(
    (value) =>
      `<line x1="${left}" x2="${width - right}" y1="${px(y(value))}" y2="${px(y(value))}" stroke="#e3e6ea"/>` +
      `<text x="${left - 8}" y="${px(y(value) + 4)}" text-anchor="end" fill="#666">${value.toPrecision(2)}</text>`,
  );
  const names = labels.map(
    (label, index) =>
      `<text x="${px(x(index))}" y="${height - bottom + 18}" text-anchor="middle" fill="#666">${escape(label)}</text>`,
  );
  const drawn = lines.map(({ label, color, points }, row) => {
    const path = points.map(({ figure }, index) => `${px(x(index))},${px(y(figure.median))}`).join(' ');
    const marks = points.map(({ figure }, index) => {
      const dot = `<circle cx="${px(x(index))}" cy="${px(y(figure.median))}" r="3.5" fill="${color}"/>`;
      return whisker(x(index), y(figure.min), x(index), y(figure.max)) + dot;
    });
    const legend = `<rect x="12" y="${top + row * 20}" width="12" height="12" fill="${color}"/><text x="30" y="${top + row * 20 + 10}">${escape(label)}</text>`;
    return `${legend}<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"/>${marks.join('')}`;
  });
  return [heading(title), ...axis, ...names, ...drawn].join('\n');
}

function heading(title: string): string {
  return `<text x="12" y="24" font-size="15" font-weight="600">${escape(title)}</text>\n`;
}

function whisker(x1: number, y1: number, x2: number, y2: number): string {
  return `<line x1="${px(x1)}" y1="${px(y1)}" x2="${px(x2)}" y2="${px(y2)}" stroke="#222"/>`;
}

function px(value: number): string {
  return value.toFixed(1);
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
