import { MAX_KEY_LENGTH } from '../protocol/constants.js';
import type { IncomingMessage } from 'node:http';

/**
 * What a request says about its key. `key` is what is looked up and stored, `raw` the header's value as it was sent
 * (for the echo); `reason` tells a client what is wrong with "it" and never contains the key.
 */
export type ParsedKey =
  | { readonly kind: 'key'; readonly key: string; readonly raw: string }
  | { readonly kind: 'missing' }
  | { readonly kind: 'malformed'; readonly reason: string };

/**
 * Longest value that is looked at. Node takes 16 KiB for all headers together by default, but may be told to take more,
 * and past some megabytes the regular expressions below would run out of stack instead of answering.
 */
const MAX_RAW_LENGTH = 16_384;

// RFC 9651, section 3.1.2 (parameters) and sections 3.3.1 to 3.3.8 (bare items), as in the ABNF of its appendix C.
const STRING = String.raw`"(?:[ !#-\[\]-~]|\\["\\])*"`;
const BARE_ITEM = [
  String.raw`-?(?:\d{1,12}\.\d{1,3}|\d{1,15})`, // Decimal, Integer
  String.raw`@-?\d{1,15}`, // Date
  STRING,
  String.raw`[A-Za-z*][A-Za-z0-9!#$%&'*+.^_|~:/\x60-]*`, // Token
  String.raw`:[A-Za-z0-9+/]*=*:`, // Byte Sequence
  String.raw`\?[01]`, // Boolean
  String.raw`%"(?:[ !#$&-~]|%[0-9a-f]{2})*"`, // Display String; whether it decodes is of no interest, it is ignored
].join('|');
const PARAMETER = String.raw`; *[a-z*][a-z0-9_.*-]*(?:=(?:${BARE_ITEM}))?`;
const STRING_ITEM = new RegExp(String.raw`^[ \t]*(?<string>${STRING})(?:${PARAMETER})*[ \t]*$`);

const STARTS_WITH_QUOTE = /^[ \t]*"/;
const BARE_KEY = /^[!-~](?:[ -~]*[!-~])?$/;

/**
 * The value of the header `headerName`; a list where it was sent in several lines.
 *
 * Node joins repeated lines of a header with a comma, and the result would pass for a bare key of its own. So the lines
 * are counted on the wire; the value is taken from `headers`, where an earlier middleware may have put or changed it.
 */
export function headerValue(
  request: Pick<IncomingMessage, 'headers' | 'rawHeaders'>,
  headerName: string,
): string | readonly string[] | undefined {
  const name = headerName.toLowerCase();
  const sent = request.headers[name];
  if (countLines(request.rawHeaders, name) > 1) {
    return [sent ?? []].flat();
  }
  return Array.isArray(sent) && sent.length < 2 ? sent[0] : sent;
}

/**
 * Parses what {@link headerValue} has found.
 *
 * - A value in double quotes is what the draft demands: an RFC 9651 String. Its parameters must be well-formed and are
 *   ignored. A list (`"a", "b"`) is not a String.
 * - Anything else is a bare value, what most clients send: it is the key as it stands, whatever it holds (`a, b` and
 *   `a;b` are keys).
 *
 * `"abc"` and `abc` are the same key.
 */
export function parseIdempotencyKey(value: string | readonly string[] | undefined): ParsedKey {
  if (value === undefined) {
    return { kind: 'missing' };
  }
  if (typeof value !== 'string') {
    return malformed('it was sent in several header lines');
  }
  if (value === '') {
    return malformed('it is empty');
  }
  if (value.length > MAX_RAW_LENGTH) {
    return tooLong();
  }
  if (!STARTS_WITH_QUOTE.test(value)) {
    return parseBareKey(value);
  }

  const string = STRING_ITEM.exec(value)?.groups?.['string'];
  if (string === undefined) {
    return malformed('it starts with a quote, but is not a String as RFC 9651 defines it');
  }

  const key = string.slice(1, -1).replaceAll(/\\(["\\])/g, '$1');
  if (key === '') {
    return malformed('it is empty');
  }
  return key.length > MAX_KEY_LENGTH ? tooLong() : { kind: 'key', key, raw: value };
}

/**
 * Checks a key that a resolver has found elsewhere. It is the key as it stands: a quote in a JSON body is a character of
 * the text, not a delimiter of RFC 9651.
 *
 * @param value may be anything, since a resolver may hand on what a client put into a JSON body
 */
export function parseResolvedKey(value: unknown): ParsedKey {
  if (value === undefined || value === null || value === '') {
    return { kind: 'missing' };
  }
  if (typeof value !== 'string') {
    return malformed('it is not a string');
  }
  return parseBareKey(value);
}

function parseBareKey(value: string): ParsedKey {
  if (value.length > MAX_KEY_LENGTH) {
    return tooLong();
  }
  return BARE_KEY.test(value)
    ? { kind: 'key', key: value, raw: value }
    : malformed('it must consist of printable ASCII characters, without spaces at its ends');
}

/** `rawHeaders` lists names and values in turn. */
function countLines(rawHeaders: readonly string[], lowerCaseName: string): number {
  return rawHeaders.filter((field, index) => index % 2 === 0 && field.toLowerCase() === lowerCaseName).length;
}

function tooLong(): ParsedKey {
  return malformed(`it is longer than ${MAX_KEY_LENGTH} characters`);
}

function malformed(reason: string): ParsedKey {
  return { kind: 'malformed', reason };
}
