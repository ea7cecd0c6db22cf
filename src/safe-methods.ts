import { RequestMethod } from '@nestjs/common';
import { METHOD_METADATA } from '@nestjs/common/constants.js';

/** RFC 9110, section 9.2.1; RFC 5323 and RFC 4918 for the two of WebDAV, and the draft of QUERY. */
const SAFE_METHODS = ['GET', 'HEAD', 'OPTIONS', 'SEARCH', 'PROPFIND', 'QUERY'];

/** The method that a route is for; `'ALL'` for any. */
export function methodOf(handler: object): string {
  return RequestMethod[
    (Reflect.getMetadata(METHOD_METADATA, handler) as RequestMethod | undefined) ?? RequestMethod.GET
  ]!;
}

/** A handler that needs no key: what it does may be done again, and a replay would only serve stale data. */
export function isSafe(handler: object): boolean {
  return SAFE_METHODS.includes(methodOf(handler));
}
