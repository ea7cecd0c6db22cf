import type { ServerResponse } from 'node:http';
import type { Acceptable } from '../content-coding.js';
import type { HeaderLine } from '../../protocol/response.js';
import { applyHeaders, type HeaderBaseline, resetHeaders } from '../recorded-response.js';
import { sendInParts } from './decoded-body.js';
import { isHeadAscii, sendHeadApart } from './head-bytes.js';

/** A recorded response, as it is sent again. */
export interface Replay extends Acceptable {
  readonly status: number;
}

/**
 * @param marks what tells that it is a replay, and until when
 * @param baseline what the response had before the run, where anything was put on it since
 */
export function sendRecorded(
  response: ServerResponse,
  { status, headers, body, rest }: Replay,
  marks: readonly HeaderLine[],
  baseline: HeaderBaseline | undefined,
): void {
  if (baseline !== undefined) {
    resetHeaders(response, baseline);
  }
  applyHeaders(response, headers);
  applyHeaders(response, marks);
  response.statusCode = status;
  if (rest === undefined) {
    endWith(response, body);
  } else {
    sendInParts(response, body, rest);
  }
}

/**
 * Ends the response. Where middleware has put an `end` of its own in place that gets to Node's only later, when writes
 * are ignored already, Node must still find the `writeHead` of now.
 */
export function endWith(response: ServerResponse, body: Buffer): void {
  const { writeHead, statusCode } = response;
  if (!isHeadAscii(response)) {
    sendHeadApart(response, body.length);
  }
  response.end(body);
  if (!response.headersSent) {
    Object.assign(response, { _implicitHeader: () => writeHead.call(response, statusCode) });
  }
}
