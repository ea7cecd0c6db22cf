/** What the bench asks a server under test for, beside HTTP. */
export type Command =
  | { do: 'cpu' }
  | { do: 'start profile'; intervalUs: number }
  | { do: 'stop profile' }
  | { do: 'purge' }
  /** Lets the held requests of `POST /held` go. */
  | { do: 'release' };

export type Reply = { value: unknown } | { error: string };

/** The first message of a server: where it listens, or why it does not run. */
export type Greeting = { port: number } | { error: string };

/** Microseconds of a profile. */
export interface ProfileShares {
  byOwner: Record<string, number>;
  /** Of what is the library's, by function: with all that it calls and that is nobody's own. */
  byFunction: Record<string, number>;
}

/** Connections to PostgreSQL of each server under test. */
export const POOL_SIZE = 16;
