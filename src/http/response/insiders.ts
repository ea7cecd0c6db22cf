import type { ServerResponse } from 'node:http';

type Listener = (...args: unknown[]) => void;

/** Where `on-finished`, which Express and much of its middleware ask, keeps all who wait behind one listener of its own. */
const SHARED_QUEUE = '__onFinished';

/**
 * The handler's own listeners for the end of a response that is sent only after the handler has returned: they are told
 * when the response that is held has ended, everybody else when it is sent.
 */
export class Insiders {
  private waiting: [event: string | symbol, listener: Listener][] = [];

  constructor(private readonly response: ServerResponse) {}

  add(event: string | symbol, listener: Listener): void {
    this.waiting.push([event, listener]);
  }

  /** Another run begins, and those of the former one have waited for nothing. */
  startOver(): void {
    this.waiting = [];
    // A queue that middleware has begun has its listener already: whoever joined it now would not be seen. What is in
    // there is told by that listener all the same.
    if (SHARED_QUEUE in this.response) {
      Object.assign(this.response, { [SHARED_QUEUE]: undefined });
    }
  }

  tell(...events: ('finish' | 'close')[]): void {
    if (this.waiting.length > 0) {
      process.nextTick(() => events.forEach((event) => this.tellThoseOf(event)));
    }
  }

  /** Whoever was told now is not told once more when the response is sent. */
  private tellThoseOf(event: string): void {
    const { response } = this;
    const told = this.waiting.filter(([name]) => name === event);
    this.waiting = this.waiting.filter(([name]) => name !== event);
    for (const [, listener] of told) {
      if (response.listeners(event).includes(listener)) {
        response.removeListener(event, listener);
        listener.call(response);
      }
    }
  }
}
