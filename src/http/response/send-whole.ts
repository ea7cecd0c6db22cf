import type { ServerResponse } from 'node:http';
import { sendHeadApart } from './head-bytes.js';
import type { KeptResponse } from './kept-response.js';
import { hasTrailers } from './node-response.js';

/** All of the body is at hand. */
export function sendWhole(response: ServerResponse, kept: KeptResponse, body: Buffer, isHeadApart: boolean): void {
  const tellEnded = (): void => kept.callbacks.forEach((callback) => callback());
  if (response.hasHeader('Trailer') || (kept.head.by !== 'end' && hasTrailers(response))) {
    response.write(body); // trailers go behind chunks only (RFC 9112, section 7.1.2)
    response.end(tellEnded);
    return;
  }
  // Node adds its length.
  if (response.hasHeader('Transfer-Encoding')) {
    response.removeHeader('Transfer-Encoding'); // only then: Node takes it for a wish to have none at all
  }
  if (isHeadApart) {
    sendHeadApart(response, body.length);
  }
  response.end(body, tellEnded);
}
