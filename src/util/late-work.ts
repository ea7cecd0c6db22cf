import { Logger } from '@nestjs/common';
import { REFUSED_FOR_MS } from '../protocol/constants.js';
import { requestStorage } from './request-storage.js';

/** Monotonic, and for tests to move on. */
export const clock = { now: (): number => performance.now() };

/** Applications have few such places; what is generated anew each time must not fill the memory, nor the log. */
const MAX_CALL_SITES = 100;

/** As many frames as lie between a statement and the code that asked for it, through TypeORM. */
const FRAMES = 50;

/** The folder around this one, as stack traces name it; not by `import.meta`, which CommonJS does not have. */
const OWN_FILES =
  /\(?([^\s()]+[/\\])[^/\\]+[/\\][^/\\]*:\d+:\d+\)?$/.exec((new Error().stack ?? '').split('\n')[1] ?? '')?.[1] ?? '';

/** Of the process. */
export const warned = new Set<string>();
const logger = new Logger('Idempotency');

const handlers = requestStorage<Aftermath>();

/** That of the handler without a transaction on whose behalf the running code works, though it has come to its end. */
export function aftermathOfHandler(): Aftermath | undefined {
  const aftermath = handlers.getStore();
  return aftermath?.isPast ? aftermath : undefined;
}

/** What has become of late work. */
export type Fate = 'refused' | 'run on an ordinary connection';

/**
 * What a request leaves behind in the AsyncLocalStorage of all that it has made or woken: a socket, a timer, the next in
 * a queue. For a while that is taken for its own late work; then, since it may serve others for the life of the process,
 * for nobody's.
 */
export class Aftermath {
  private running = 0;
  private since: number | undefined;
  private isOver = false;

  /** @param what ran, for the log: "POST /orders" */
  constructor(private readonly what: string) {}

  /** The same as {@link track}, for a handler that has no transaction by which its late work would be known. */
  enter<T>(work: () => T): T {
    return handlers.run(this, () => this.track(work));
  }

  /** Runs the handler, or a part of it: until it has settled, what runs on its behalf is its own. */
  track<T>(work: () => T): T {
    const settled = (): void => {
      this.running--;
      this.since = clock.now();
    };
    this.running++;
    let result: T;
    try {
      result = work();
    } catch (error) {
      settled();
      throw error;
    }
    if (result instanceof Promise) {
      result.then(settled, settled);
    } else {
      settled();
    }
    return result;
  }

  /** The request has ended, whatever its handler does. */
  over(): void {
    if (!this.isOver) {
      this.isOver = true;
      this.since = clock.now();
    }
  }

  /** Whether both the request and its handler have come to their end. */
  get isPast(): boolean {
    return this.isOver && this.running === 0;
  }

  /** Whether what runs in its context is not taken for its own work any more. */
  get isForgotten(): boolean {
    return this.isPast && clock.now() - this.since! >= REFUSED_FOR_MS;
  }

  /** Says once for each place in the application's code that it works on behalf of a request which is over. */
  warn(statement: string | undefined, fate: Fate, place = callSite()): void {
    const site = `${place ?? statement} ${fate}`;
    if (warned.size < MAX_CALL_SITES && !warned.has(site)) {
      warned.add(site);
      logger.warn(
        `${statement ?? 'A use of the DataSource'}${place === undefined ? '' : ` at ${place}`} was ${fate}: it comes on behalf of ${this.what}, ${this.age}. ` +
          'Await all work before the handler returns. What outlives its request (a socket, a timer, a queue) is best made outside of it, or by IdempotencyService.outsideTransaction(); ' +
          'bind callbacks that others wake by AsyncResource.bind().',
      );
    }
  }

  private get age(): string {
    if (this.running > 0) {
      return 'which was given up and whose handler still runs';
    }
    return `which ended ${((clock.now() - (this.since ?? clock.now())) / 1000).toFixed(1)} s ago`;
  }
}

/** The nearest frame outside of packages and of this library, for as long as there is something to say of it. */
export function callSite(): string | undefined {
  if (warned.size >= MAX_CALL_SITES) {
    return undefined;
  }
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = FRAMES;
  const { stack = '' } = new Error();
  Error.stackTraceLimit = stackTraceLimit;
  const frame = stack
    .split('\n')
    .slice(1)
    .find((line) => /[/\\]/.test(line) && !/node_modules|\(?node:/.test(line) && !line.includes(OWN_FILES));
  return frame?.trim().replace(/^at (async )?/, '');
}
