import type { Report } from './app/protocol.js';

/** What one moment looked like, from the instances and from the database. */
export interface Sample {
  seconds: number;
  instances: Report[];
  /** Sessions of the instances in PostgreSQL. */
  sessions: number;
  rows: number;
  /** Of idempotency_keys with its indexes and TOAST. */
  relationBytes: number;
}

export interface Finding {
  what: string;
  unit: 'MB' | '';
  /** In the second third of the run; the first one is the warm-up. */
  before: number;
  /** In the last third. */
  after: number;
  /** What `after` may be; nothing is demanded where there is none. */
  limit: number | undefined;
  kept: boolean;
}

interface Measure<T> {
  what: string;
  unit: Finding['unit'];
  of: (measured: T) => number;
  /** What a third is judged by. What comes and goes with the requests is judged by what is left between them. */
  by: 'median' | 'lowest';
  /** How far the last third may be above the second one. */
  tolerance?: { share: number; amount: number };
}

const MB = 1_000_000;

/** A pool makes connections for a burst, and closes them when they have been idle for 10 s. */
const FEW_MORE = { share: 0.1, amount: 2 };

const OF_INSTANCE: Measure<Report>[] = [
  {
    what: 'heap used',
    unit: 'MB',
    of: ({ heapUsed }) => heapUsed,
    by: 'median',
    tolerance: { share: 0.05, amount: 2 * MB }, // the names of recent keys, which fill up to 10,000, come to 2 MB
  },
  {
    what: 'buffers',
    unit: 'MB',
    of: ({ external }) => external,
    by: 'median',
    tolerance: { share: 0.1, amount: 8 * MB }, // a few large bodies are under way at any moment
  },
  {
    what: 'resident set', // what the allocator does not give back is not the application's
    unit: 'MB',
    of: ({ rss }) => rss,
    by: 'median',
  },
  {
    what: 'active resources',
    unit: '',
    of: ({ resources }) => resources,
    by: 'lowest',
    tolerance: { share: 0.1, amount: 5 },
  },
  {
    what: 'connections',
    unit: '',
    of: ({ pool }) => pool.total,
    by: 'median',
    tolerance: FEW_MORE,
  },
  {
    what: 'connections in use',
    unit: '',
    of: ({ pool }) => pool.total - pool.idle,
    by: 'lowest',
    tolerance: { share: 0, amount: 1 },
  },
];

const OF_DATABASE: Measure<Sample>[] = [
  {
    what: 'sessions',
    unit: '',
    of: ({ sessions }) => sessions,
    by: 'median',
    tolerance: FEW_MORE,
  },
  {
    what: 'rows of the table',
    unit: '',
    of: ({ rows }) => rows,
    by: 'median',
    tolerance: { share: 0.1, amount: 50 },
  },
  {
    what: 'size of the table',
    unit: 'MB',
    of: ({ relationBytes }) => relationBytes,
    by: 'median',
    tolerance: { share: 0.1, amount: 4 * MB }, // dead rows wait for the next autovacuum
  },
];

/** Says of all that was measured whether it has stayed as it was. */
export function judge(samples: readonly Sample[]): Finding[] {
  const third = Math.floor(samples.length / 3);
  const before = samples.slice(third, 2 * third);
  const after = samples.slice(2 * third);
  const instances = samples[0]!.instances.flatMap((_, index) => {
    const reports = (of: readonly Sample[]): Report[] => of.map((sample) => sample.instances[index]!);
    return OF_INSTANCE.map((measure) => compare(measure, reports(before), reports(after), `instance ${index + 1}: `));
  });
  return [...instances, ...OF_DATABASE.map((measure) => compare(measure, before, after, 'PostgreSQL: '))];
}

function compare<T>(measure: Measure<T>, one: T[], other: T[], whose: string): Finding {
  const { what, unit, of, by, tolerance } = measure;
  const [before, after] = [one, other].map((third) => VALUES[by](third.map(of))) as [number, number];
  const limit = tolerance && before * (1 + tolerance.share) + tolerance.amount;
  return { what: whose + what, unit, before, after, limit, kept: limit === undefined || after <= limit };
}

const VALUES = { median, lowest: (values: number[]) => Math.min(...values) };

function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle) - 1]!) / 2;
}
