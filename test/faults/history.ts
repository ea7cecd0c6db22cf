import { appendFileSync, writeFileSync } from 'node:fs';
import type { Decision } from './app/protocol.js';
import { type RouteName, routeOf } from './routes.js';

/** Why a request was sent. */
export type Purpose = 'first' | 'retry' | 'duplicate' | 'replay' | 'changed payload' | 'final' | 'late replay';

/** What came back. `body` holds the bytes, one to a character. */
export interface Answer {
  status: number;
  replayed: boolean;
  contentType: string | undefined;
  contentLength: string | undefined;
  /** The nonce of the execution that the answer tells of. */
  receipt: string | undefined;
  body: string;
}

/** One request. Without an answer its outcome is unknown, and stays so: it may have been, or still be, carried out. */
export interface Exchange {
  purpose: Purpose;
  instance: string;
  attempt: number;
  sentAt: number;
  answeredAt?: number;
  answer?: Answer;
  unknown?: string;
}

/** All that was ever sent under one key, in the order of sending. */
export class KeyHistory {
  readonly exchanges: Exchange[] = [];
  /** What an operator decided while the outcome was unknown, and when that was sent. */
  readonly decisions: { decision: Decision; sentAt: number }[] = [];

  constructor(
    readonly key: string,
    readonly route: RouteName,
    readonly amount: number,
    /** Attempts up to this number are made to fail by the handler. */
    readonly failures: number,
  ) {}

  begin(purpose: Purpose, instance: string, attempt: number): Exchange {
    const exchange: Exchange = { purpose, instance, attempt, sentAt: performance.now() };
    this.exchanges.push(exchange);
    return exchange;
  }

  /** The client knows what became of its operation and stops retrying. */
  get resolved(): boolean {
    return this.exchanges.some(({ answer }) => answer !== undefined && this.isDefinite(answer));
  }

  isDefinite(answer: Answer): boolean {
    return this.isRecorded(answer) || isProblem(answer, 'response-not-kept');
  }

  /** The handler's own answer, first-hand or replayed. */
  isRecorded(answer: Answer): boolean {
    return answer.receipt !== undefined && answer.status === routeOf(this.route).status;
  }
}

export function isProblem({ contentType, body }: Answer, slug: string): boolean {
  return (contentType?.startsWith('application/problem+json') ?? false) && body.includes(`:${slug}"`);
}

/** One line for each request, in the order of sending: for people who look into a violation. */
export function writeHistory(file: string, histories: Iterable<KeyHistory>): void {
  writeFileSync(file, '');
  for (const { exchanges, ...about } of histories) {
    appendFileSync(file, exchanges.map((exchange) => `${JSON.stringify({ ...about, ...exchange })}\n`).join(''));
  }
}
