import type { OutgoingHttpHeader, ServerResponse } from 'node:http';
import type { IdempotencyException } from '../../protocol/exceptions.js';

/** The media type of RFC 9457, as Express writes it. */
export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

/** Puts the headers of a problem onto the response, whoever writes its body. @returns what takes them back */
export function showProblemHeaders(response: ServerResponse, exception: IdempotencyException): () => void {
  const { retryAfterSeconds } = exception;
  const link = `<${exception.getResponse().type}>; rel="describedby"`;
  const links = response.getHeader('Link');
  return setHeadersOnStatus(response, exception.getStatus(), [
    ['Content-Type', PROBLEM_TYPE],
    ['Link', links === undefined ? link : [links, link].flat().map(String)],
    ...(retryAfterSeconds === undefined ? [] : [['Retry-After', String(retryAfterSeconds)] as const]),
  ]);
}

/**
 * The headers are on the response while its status is `expected`: whoever answers sets the status first, and an outer
 * interceptor may catch a problem and answer with something else. Headers that others have set meanwhile stay.
 */
function setHeadersOnStatus(
  response: ServerResponse,
  expected: number,
  headers: readonly (readonly [name: string, value: string | string[]])[],
): () => void {
  const before = headers.map(([name]) => response.getHeader(name));
  let { statusCode } = response;
  let shown = false;
  const show = (wanted: boolean): void => {
    if (shown === wanted || response.headersSent) {
      return;
    }
    shown = wanted;
    headers.forEach(([name, value], index) => {
      const [from, to] = wanted ? [before[index], value] : [value, before[index]];
      if (String(response.getHeader(name)) === String(from)) {
        setOrRemove(response, name, to);
      }
    });
  };
  const whenSet = (status: number): void => {
    statusCode = status;
    show(status === expected);
  };
  whenSet(statusCode);
  Object.defineProperty(response, 'statusCode', { get: () => statusCode, set: whenSet, configurable: true });
  return () => {
    show(false);
    Object.defineProperty(response, 'statusCode', { value: statusCode, writable: true, configurable: true });
  };
}

function setOrRemove(response: ServerResponse, name: string, value: OutgoingHttpHeader | undefined): void {
  if (value === undefined) {
    response.removeHeader(name);
  } else {
    response.setHeader(name, value);
  }
}
