import type { Failpoint } from '../../../src/util/failpoint.js';
import type { ArmMessage, ReportMessage } from './protocol.js';

/** Lets the parent say where this process dies, and ask how it is. */
export function obeyParent(report: () => object): void {
  let armed: ArmMessage = { failpoint: undefined, hit: 0 };
  process.on('message', (message: ArmMessage | ReportMessage) => {
    if ('report' in message) {
      process.send?.(report());
    } else {
      armed = message;
    }
  });
  // An orphan would hold the suite's output open, and its connections.
  process.on('disconnect', () => process.exit());
  Object.assign(globalThis, {
    [Symbol.for('nestjs-idempotency.failpoint')]: (name: Failpoint) => {
      if (name === armed.failpoint && --armed.hit <= 0) {
        process.kill(process.pid, 'SIGKILL');
      }
    },
  });
}

/** Moves the wall clock of this process. Timers go by the monotonic one and keep their pace. */
export function moveClock(offsetMs: number): void {
  const RealDate = Date;
  class MovedDate extends RealDate {
    constructor(...args: unknown[]) {
      if (args.length === 0) {
        super(RealDate.now() + offsetMs);
      } else {
        super(...(args as [number]));
      }
    }

    static override now(): number {
      return RealDate.now() + offsetMs;
    }
  }
  globalThis.Date = MovedDate as DateConstructor;
}
