import { inspect } from 'node:util';
import { DEFAULT_OPTIONS, type IdempotencyModuleOptions, withoutUndefined } from './protocol/options.js';

/** Functions say nothing of themselves, and the others are for nobody to read. */
const BY_NAME_ALONE = new Set(['encryption', 'fingerprintSecret', 'hashSecret']);

/** One line for the log at boot: what holds where no route says otherwise. */
export function effectiveSettings(options: IdempotencyModuleOptions, schema: string): string {
  const all = Object.entries({ ...DEFAULT_OPTIONS, ...withoutUndefined(options), schema });
  const isShown = ([name, value]: [string, unknown]): boolean =>
    typeof value !== 'function' && !BY_NAME_ALONE.has(name);
  const shown = all.filter(isShown).map(([name, value]) => `${name} ${inspect(value, { breakLength: Infinity })}`);
  const named = all.filter((entry) => !isShown(entry)).map(([name]) => name);
  return [`Ready with ${shown.join(', ')}`, ...(named.length > 0 ? [`and ${named.join(', ')} of its own`] : [])].join(
    ', ',
  );
}
