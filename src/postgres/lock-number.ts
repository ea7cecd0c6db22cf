import { hash } from 'node:crypto';

/** The number of an advisory lock: 64 bits of SHA-256 over the parts of its name. */
export function lockNumber(parts: string[]): string {
  return hash('sha256', JSON.stringify(parts), 'buffer').readBigInt64BE(0).toString();
}
