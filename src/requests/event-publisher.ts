import { createHmac, randomBytes } from 'node:crypto';
import { channel } from 'node:diagnostics_channel';
import { runLogged } from '../util/after-commit.js';
import { IDEMPOTENCY_CHANNEL, type IdempotencyEvent } from '../protocol/events.js';

/** Long enough that no two of a billion keys share it. */
const HASH_HEX_DIGITS = 32;

const events = channel(IDEMPOTENCY_CHANNEL);

/** Tells who listens. Without a listener it costs a request one look at a property. */
export class EventPublisher {
  private readonly secret: string | Buffer;

  /** @param outside runs a listener so that what it does with the DataSource joins no request's transaction */
  constructor(
    private readonly onEvent: ((event: IdempotencyEvent) => unknown) | undefined,
    hashSecret: string | undefined,
    private readonly outside: (work: () => void) => void,
  ) {
    this.secret = hashSecret ?? randomBytes(32);
  }

  get isHeard(): boolean {
    return this.onEvent !== undefined || events.hasSubscribers;
  }

  publish(event: IdempotencyEvent): void {
    const { onEvent } = this;
    this.outside(() => {
      events.publish(event);
      if (onEvent !== undefined) {
        void runLogged(() => onEvent(event));
      }
    });
  }

  /** Equal parts have equal hashes wherever the secret is the same; without it nobody can find the parts by trying. */
  hash(...parts: string[]): string {
    return createHmac('sha256', this.secret).update(JSON.stringify(parts)).digest('hex').slice(0, HASH_HEX_DIGITS);
  }
}
