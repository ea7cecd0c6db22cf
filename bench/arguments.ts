import { parseArgs } from 'node:util';

export interface Arguments {
  quick: boolean;
  rounds: number;
  only: ReadonlySet<number>;
}

const SCENARIOS = [1, 2, 3, 4, 5, 6, 7, 8, 9];

export const USAGE = `npm run bench -- [--quick] [--only 1,3,6] [--rounds <n>]

  --quick    2 rounds instead of 5, shorter ones, 100 thousand instead of 10 million rows: under 3 minutes
  --only     numbers of the scenarios to run; all of them by default (bench/README.md says what they are)
  --rounds   how often each figure is measured; the result is the median
`;

export function readArguments(argv: string[]): Arguments {
  const { values } = parseArgs({
    args: argv,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      only: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const rounds = Number(values.rounds ?? (values.quick ? 2 : 5));
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > 50) {
    throw new Error(`--rounds ${values.rounds}: give a whole number from 1 to 50`);
  }
  const only = values.only?.split(',').map(Number) ?? SCENARIOS;
  const unknown = only.filter((number) => !SCENARIOS.includes(number));
  if (unknown.length > 0) {
    throw new Error(`--only ${values.only}: give numbers from 1 to 9, separated by commas`);
  }
  return { quick: values.quick, rounds, only: new Set(only) };
}
