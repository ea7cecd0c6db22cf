import { randomUUID } from 'node:crypto';
import { Controller, Post } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';

export interface Resolved {
  key: unknown;
  scope: unknown;
  fingerprint: unknown;
}

export let resolved: Resolved;

export function resolveTo(next: Resolved): void {
  resolved = next;
}

/** What a resolver that throws is made to return here. */
export class Throws extends Error {}

function resolvedOf(name: keyof Resolved): never {
  const value = resolved[name];
  if (value instanceof Throws) throw value;
  return value as never;
}

@Controller()
export class ResolversController {
  @Post('resolved')
  @Idempotent({
    key: () => resolvedOf('key'),
    scope: () => resolvedOf('scope'),
    fingerprint: async () => resolvedOf('fingerprint'),
  })
  answer(): { run: string } {
    return { run: randomUUID() };
  }
}
