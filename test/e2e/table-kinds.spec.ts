import { describe } from '@jest/globals';
import { turnTablesInto } from '../support/table-kinds.js';
import { itIsIdempotentOver } from './table-kinds.js';

describe.each([
  ['8 HASH partitions', 'express'],
  ['an INHERITS child', 'fastify'],
] as const)('idempotency over %s', (kind, adapter) => {
  itIsIdempotentOver((url) => turnTablesInto(kind, url), adapter);
});
