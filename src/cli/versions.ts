import { OWN_PACKAGE, ownCopyOf } from '../util/installed.js';
import type { Finding } from './findings.js';

/** What the command line runs on, as the application beside it does. */
export interface Versions {
  readonly library: string | undefined;
  readonly pg: string | undefined;
  readonly typeorm: string | undefined;
}

/** The oldest that is supported, and the first major that is not known to be: package.json has the same for npm. */
const SUPPORTED = {
  pg: { from: [8, 11, 0], below: 9, remedy: 'Use pg 8.11 or a later 8.' },
  typeorm: { from: [0, 3, 20], below: 2, remedy: 'Use TypeORM 0.3.20 or later, or 1.' },
} as const;

export function installedVersions(): Versions {
  return {
    library: OWN_PACKAGE?.version,
    pg: ownCopyOf('pg')?.version,
    typeorm: ownCopyOf('typeorm')?.version,
  };
}

export function findingsOnVersions(versions: Versions): Finding[] {
  return (['pg', 'typeorm'] as const)
    .filter((name) => !isSupported(versions[name], SUPPORTED[name]))
    .map((name) => ({
      check: 'version',
      problem: `${name} ${versions[name]} is not supported`,
      remedy: SUPPORTED[name].remedy,
    }));
}

/** One that cannot be told is none to complain of. */
function isSupported(
  version: string | undefined,
  { from, below }: { from: readonly number[]; below: number },
): boolean {
  if (version === undefined) {
    return true;
  }
  const parts = version.split(/[.-]/, 3).map(Number);
  const differs = from.findIndex((part, place) => parts[place] !== part);
  return parts[0]! < below && (differs === -1 || parts[differs]! > from[differs]!);
}
