import type { RouteOptions } from '../protocol/options.js';
import { MAX_KEY_LENGTH } from '../protocol/constants.js';

/** What is told of a route beside what OpenAPI has words for. */
export const EXTENSION = 'x-idempotency';

interface Retention {
  readonly mode: string;
  /** How long a key is kept. */
  readonly ttlMs: number;
  readonly required: boolean;
  /** Absent where the key comes from elsewhere. */
  readonly header?: string;
  readonly pattern?: string;
  readonly replayedHeader: string;
  readonly expiresHeader?: string;
}

export interface OpenApiOperation {
  parameters?: { name: string; in: string; [member: string]: unknown }[];
  responses?: Record<string, { headers?: Record<string, unknown>; [member: string]: unknown }>;
  [EXTENSION]?: Retention;
}

export function retentionOf(options: RouteOptions): Retention {
  const { mode, ttlMs, required, header, key, keyPattern, replayedHeader, expiresHeader } = options;
  return {
    mode,
    ttlMs,
    required,
    ...(key === undefined ? { header } : {}),
    ...(keyPattern === undefined ? {} : { pattern: `^(?:${keyPattern.source})$` }),
    replayedHeader,
    ...(expiresHeader === false ? {} : { expiresHeader }),
  };
}

const PROBLEMS: readonly [status: string, description: string, slugs: readonly string[]][] = [
  ['400', 'The idempotency key is missing, or cannot be used.', ['key-missing', 'key-malformed']],
  [
    '409',
    'The first request with this key still runs (Retry-After says when to ask again), its response was not kept, or it waits for an operator.',
    ['request-in-flight', 'response-not-kept', 'outcome-unknown'],
  ],
  ['422', 'The key was used before, for another request.', ['key-reused']],
  [
    '503',
    'Nothing was done, or its outcome is not known here: retry with the same key.',
    ['store-unavailable', 'timed-out', 'transaction-conflict'],
  ],
];

/** Adds what is not said by the route itself. */
export function completeOperation(operation: OpenApiOperation, problemBaseUrl: string): void {
  const retention = operation[EXTENSION];
  if (retention === undefined) {
    return;
  }
  addHeader(operation, retention);
  const responses = (operation.responses ??= {});
  for (const [status, response] of Object.entries(responses)) {
    if (status.startsWith('2')) {
      response.headers = { ...headersOf(retention), ...response.headers };
    }
  }
  for (const [status, description, slugs] of PROBLEMS) {
    responses[status] ??= {
      description,
      content: { 'application/problem+json': { schema: problemSchema(status, slugs, problemBaseUrl) } },
    };
  }
}

function headersOf({ replayedHeader, expiresHeader }: Retention): Record<string, unknown> {
  return {
    [replayedHeader]: {
      description: 'There, and `true`, where this is the recorded response of an earlier request.',
      schema: { type: 'string', enum: ['true'] },
    },
    ...(expiresHeader === undefined
      ? {}
      : {
          [expiresHeader]: {
            description:
              'Until when the key is kept, and a retry gets this response: a date as RFC 9110, section 5.6.7, has it.',
            schema: { type: 'string' },
            example: 'Sun, 06 Nov 1994 08:49:37 GMT',
          },
        }),
  };
}

function addHeader(operation: OpenApiOperation, { header, required, pattern, ttlMs }: Retention): void {
  if (header === undefined) {
    return;
  }
  const parameters = (operation.parameters ??= []);
  const isThere = parameters.some((each) => each.in === 'header' && each.name.toLowerCase() === header.toLowerCase());
  if (!isThere) {
    parameters.push({
      name: header,
      in: 'header',
      required,
      description: `A unique value for each operation, such as a UUID, and the same one for each retry of it. Kept for ${ttlMs} ms from when the response is recorded.`,
      schema: {
        type: 'string',
        minLength: 1,
        maxLength: MAX_KEY_LENGTH,
        ...(pattern === undefined ? {} : { pattern }),
      },
    });
  }
}

function problemSchema(status: string, slugs: readonly string[], baseUrl: string): object {
  return {
    type: 'object',
    required: ['type', 'title', 'status', 'detail'],
    properties: {
      type: { type: 'string', enum: slugs.map((slug) => baseUrl + slug) },
      title: { type: 'string' },
      status: { type: 'integer', enum: [Number(status)] },
      detail: { type: 'string' },
    },
  };
}
