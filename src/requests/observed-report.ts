import type { ObservedEvent, ObservedOutcome } from '../protocol/events.js';
import { IdempotencyException } from '../protocol/exceptions.js';
import type { KeyIdentity } from '../protocol/stored-key.js';
import type { EventPublisher } from './event-publisher.js';

/** By the last part of the problem's `type`. */
const OUTCOME_OF_PROBLEM: Readonly<Record<string, ObservedOutcome>> = {
  'key-missing': 'missing',
  'key-malformed': 'malformed',
};

/** Tells what became of one request in observe mode, once; there is none for a request that nobody listens to. */
export class ObservedReport {
  private isTold = false;

  constructor(
    private readonly events: EventPublisher,
    private readonly source: Pick<ObservedEvent, 'method' | 'route'>,
  ) {}

  /** The first one counts: what a request was beside others is known before what it would have been by itself. */
  end(outcome: ObservedOutcome, of?: KeyIdentity, rest: Pick<ObservedEvent, 'status' | 'isSame'> = {}): void {
    if (!this.isTold) {
      this.isTold = true;
      this.events.publish({ type: 'observed', ...this.source, mode: 'observe', ...this.hashes(of), outcome, ...rest });
    }
  }

  /** @param error what another mode would have answered before the handler ran */
  refused(error: unknown): void {
    this.end((error instanceof IdempotencyException && OUTCOME_OF_PROBLEM[error.slug]) || 'refused');
  }

  private hashes(of: KeyIdentity | undefined): Pick<ObservedEvent, 'scopeHash' | 'keyHash'> {
    return of === undefined
      ? {}
      : { scopeHash: this.events.hash(of.scope), keyHash: this.events.hash(of.scope, of.key) };
  }
}
