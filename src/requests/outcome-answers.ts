import type { Outcome } from '../modes/outcome.js';
import type { RouteOptions } from '../protocol/options.js';
import type { HeaderLine, ReplayableResponse } from '../protocol/response.js';
import { headerOf } from '../http/recorded-response.js';
import {
  type IdempotencyException,
  IdempotencyKeyReusedException,
  IdempotencyOutcomeUnknownException,
  IdempotencyRequestInFlightException,
  IdempotencyResponseNotKeptException,
} from '../protocol/exceptions.js';

/** What answers a request that can neither run nor be replayed. */
export function exceptionOf(outcome: Exclude<Outcome, { kind: 'claimed' | 'completed' }>): IdempotencyException {
  switch (outcome.kind) {
    case 'not kept':
      return new IdempotencyResponseNotKeptException(outcome.originalStatus, outcome.completedAt);
    case 'mismatch':
      return new IdempotencyKeyReusedException();
    case 'in flight':
      return new IdempotencyRequestInFlightException();
    case 'interrupted':
      return new IdempotencyOutcomeUnknownException(outcome.steps);
  }
}

type Marks = Pick<RouteOptions, 'replayedHeader' | 'expiresHeader'>;

/** What a recorded response goes out with, each time, and is not part of it. */
export function expiryMarks({ expiresHeader }: Marks, { expiresAt }: { expiresAt: Date }): HeaderLine[] {
  return expiresHeader === false ? [] : [[expiresHeader, expiresAt.toUTCString()]]; // an IMF-fixdate
}

export function replayMarks(options: Marks, recorded: { expiresAt: Date }): HeaderLine[] {
  return [[options.replayedHeader, 'true'], ...expiryMarks(options, recorded)];
}

/** A larger one takes tens of milliseconds to be read, in which nobody else is served, and all for what is not sent. */
const LARGEST_VALUE_BYTES = 1024 * 1024;

/**
 * The value that outer interceptors get in place of the handler's, when a recorded response was sent instead: as near
 * to it as can be had, so that they complete as usual. What comes of it is not sent.
 */
export function valueLikeThatOf({
  status,
  headers,
  body,
}: Pick<ReplayableResponse, 'status' | 'headers' | 'body'>): unknown {
  const url = headerOf(headers, 'location');
  if (status >= 300 && status < 400 && url !== undefined) {
    return { statusCode: status, url }; // what @Redirect() takes
  }
  const isReadable = body.length > 0 && body.length <= LARGEST_VALUE_BYTES && !headerOf(headers, 'content-encoding');
  if (!isReadable || !/^application\/(?:[^;]+\+)?json\b/i.test(headerOf(headers, 'content-type') ?? '')) {
    return undefined;
  }
  try {
    return JSON.parse(body.toString()) as unknown;
  } catch {
    return undefined; // it only calls itself JSON
  }
}
