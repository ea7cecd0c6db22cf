import { expect } from '@jest/globals';
import type { RawResponse } from '../../support/raw-http.js';
import { json, lines } from '../../support/response.js';

interface Problem {
  status: number;
  slug: string;
  title: string;
  retryAfter?: string;
  [extension: string]: unknown;
}

export const PROBLEMS = {
  missing: { status: 400, slug: 'key-missing', title: 'Idempotency-Key is missing' },
  malformed: { status: 400, slug: 'key-malformed', title: 'Idempotency-Key is malformed' },
  reused: { status: 422, slug: 'key-reused', title: 'Idempotency-Key is already used' },
  inFlight: {
    status: 409,
    slug: 'request-in-flight',
    title: 'A request is outstanding for this Idempotency-Key',
    retryAfter: '1',
  },
  notKept: { status: 409, slug: 'response-not-kept', title: 'The response to this Idempotency-Key was not kept' },
  unavailable: {
    status: 503,
    slug: 'store-unavailable',
    title: 'The idempotency store is unavailable',
    retryAfter: '2',
  },
  timedOut: { status: 503, slug: 'timed-out', title: 'The operation took too long', retryAfter: '2' },
  failed: { status: 500, slug: 'transaction-failed', title: 'The operation failed' },
} satisfies Record<string, Problem>;

/** What a response tells of a problem, in all the places where it does. */
export function problemIn(response: RawResponse) {
  return {
    ...json(response),
    onStatusLine: response.status,
    contentType: lines(response, 'Content-Type'),
    link: lines(response, 'Link'),
    retryAfter: lines(response, 'Retry-After'),
    replayed: lines(response, 'Idempotency-Replayed'),
  };
}

export function problem(
  { status, slug, title, retryAfter, ...extensions }: Problem,
  baseUrl = 'urn:nestjs-idempotency:',
) {
  const type = baseUrl + slug;
  return {
    type,
    title,
    status,
    detail: expect.stringMatching(/^[A-Z].{20,}\.$/),
    ...extensions,
    onStatusLine: status,
    contentType: ['application/problem+json; charset=utf-8'],
    link: [`<${type}>; rel="describedby"`],
    retryAfter: retryAfter === undefined ? [] : [retryAfter],
    replayed: [],
  };
}
