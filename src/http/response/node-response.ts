import type { ServerResponse } from 'node:http';

/** What `headersSent` and `closed` tell by; the same in Node.js 20 to 26. */
const HEADER = '_header';
const CLOSED = '_closed';

/** What `addTrailers()` keeps. */
const TRAILERS = '_trailer';

/** Has Node tell that the headers were sent, and refuse further ones, though nothing has gone out yet; or no longer. */
export function showHeadSent(response: ServerResponse, sent: boolean): void {
  (response as unknown as { [HEADER]: string | null })[HEADER] = sent ? `HTTP/1.1 ${response.statusCode}\r\n` : null;
}

export function showClosed(response: ServerResponse, closed: boolean): void {
  (response as unknown as { [CLOSED]: boolean })[CLOSED] = closed;
  response.destroyed = closed;
}

export function hasTrailers(response: ServerResponse): boolean {
  return ((response as unknown as { [TRAILERS]?: string })[TRAILERS] ?? '') !== '';
}
