/** One measured quantity: a value for each round. */
export interface Figure {
  unit: string;
  median: number;
  min: number;
  max: number;
  values: number[];
}

export function figure(unit: string, values: readonly number[]): Figure {
  const rounded = values.map((value) => Number(value.toPrecision(6)));
  return { unit, median: median(rounded), min: Math.min(...rounded), max: Math.max(...rounded), values: rounded };
}

/** Round by round, so that what slows the machine down for a while slows both sides down. */
export function ratio(of: readonly number[], to: readonly number[]): Figure {
  return figure(
    '×',
    of.map((value, round) => value / to[round]!),
  );
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Between the two nearest values when it falls between them. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) {
    return Number.NaN;
  }
  const sorted = values.toSorted((a, b) => a - b);
  const position = (sorted.length - 1) * q;
  const below = sorted[Math.floor(position)]!;
  const above = sorted[Math.ceil(position)]!;
  return below + (above - below) * (position - Math.floor(position));
}
