import { expect } from '@jest/globals';
import type { RawResponse } from './raw-http.js';

/** All values of a header, one for each line. */
export function lines({ headerLines }: RawResponse, name: string): string[] {
  const start = `${name.toLowerCase()}: `;
  return headerLines.filter((line) => line.toLowerCase().startsWith(start)).map((line) => line.slice(start.length));
}

/** The body, which is an object in JSON. */
export function json(response: RawResponse): Record<string, unknown> {
  return JSON.parse(response.body.toString()) as Record<string, unknown>;
}

/** What a replay of this response looks like. */
export function replayOf({ statusLine, body }: RawResponse) {
  return expect.objectContaining({
    statusLine,
    body,
    headerLines: expect.arrayContaining(['Idempotency-Replayed: true']),
  });
}

/** The value of a header that occurs once at most. */
export function headerOf(response: RawResponse, name: string): string | undefined {
  return lines(response, name)[0]?.trim();
}
