import { inspect } from 'node:util';
import { Logger } from '@nestjs/common';

/** Everything that is logged from now on, with all that an error carries. */
export function collectLogs(): string[] {
  const logged: string[] = [];
  const collect = (...parts: unknown[]): void => void logged.push(inspect(parts, { depth: 10 }));
  Logger.overrideLogger({ log: collect, warn: collect, error: collect, debug: collect, verbose: collect });
  return logged;
}
