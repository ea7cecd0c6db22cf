import { createHmac, randomBytes } from 'node:crypto';
import { channel } from 'node:diagnostics_channel';
import { runLogged } from '../util/after-commit.js';
import { IDEMPOTENCY_CHANNEL, type IdempotencyEvent } from '../protocol/events.js';

/** Long enough that no two of a billion keys share it. */
const HASH_HEX_DIGITS = 32;

export type EventListener = (event: IdempotencyEvent) => unknown;

const events = channel(IDEMPOTENCY_CHANNEL);

/** Tells who listens. Without a listener it costs a request one look at a property. */
export class EventPublisher {
  private readonly secret: string | Buffer;
  private readonly listeners: EventListener[] = [];

  /** @param outside runs a listener so that what it does with the DataSource joins no request's transaction */
  constructor(
    onEvent: EventListener | undefined,
    hashSecret: string | undefined,
    private readonly outside: (work: () => void) => void,
  ) {
    this.secret = hashSecret ?? randomBytes(32);
    this.listeners.push(...(onEvent === undefined ? [] : [onEvent]));
  }

  get isHeard(): boolean {
    return this.listeners.length > 0 || events.hasSubscribers;
  }

  publish(event: IdempotencyEvent): void {
    this.outside(() => {
      events.publish(event);
      this.listeners.forEach((listener) => void runLogged(() => listener(event)));
    });
  }

  /** For the events of this module alone; those of the channel are of the whole process. */
  listen(listener: EventListener): void {
    this.listeners.push(listener);
  }

  /** Equal parts have equal hashes wherever the secret is the same; without it nobody can find the parts by trying. */
  hash(...parts: string[]): string {
    return createHmac('sha256', this.secret).update(JSON.stringify(parts)).digest('hex').slice(0, HASH_HEX_DIGITS);
  }
}
