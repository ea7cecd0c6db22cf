import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { ReplayHeaders } from '../protocol/options.js';
import type { HeaderLine } from '../protocol/response.js';

/**
 * Never stored, each for a reason. What belongs to one message tells something false on another. What is a credential
 * belongs to one caller and to one session: a replay may come a day later, to another client of the same scope, and the
 * table is no place for secrets. `replayHeaders: { keep }` stores one all the same.
 */
const NEVER_STORED: readonly (readonly [names: RegExp, reason: string])[] = [
  [/^(?:connection|keep-alive|te|trailer|transfer-encoding|upgrade)$/, 'hop by hop (RFC 9110, 7.6.1)'],
  [/^(?:age|date)$/, 'when the message was made (RFC 9110, 6.6.1; RFC 9111, 5.1)'],
  [/^(?:server-timing|x-response-time|x-runtime)$/, 'how long the message took to make (W3C Server Timing)'],
  [/^(?:proxy-.*|www-authenticate)$/, 'a challenge, and its nonce, is for one connection (RFC 9110, 11.6.1 and 11.7)'],
  [/^(?:authorization|(?:authentication|proxy-authentication)-info)$/, 'credentials (RFC 9110, 11.6)'],
  [/^set-cookie2?$/, 'a session (RFC 6265)'],
  [/(?:^|-)[cx]srf(?:-|$)/, 'a token against forged requests is of one session'],
  [
    /(?:^|-)(?:access|api|auth|authentication|authorization|bearer|device|id|identity|login|private|refresh|security|session|sso|user)-?token$/,
    'a token that lets its bearer in',
  ],
  [
    /(?:^|-)(?:api-?key|api-?secret|client-secret|jwt|otp|passcode|password|private-key|secret-key|session-?id)$/,
    'a secret by its name',
  ],
];

function isNeverStored(name: string): boolean {
  return NEVER_STORED.some(([names]) => names.test(name));
}

/**
 * Always stored, also where the route had set them before the handler ran (`@Header()`): they describe the stored body
 * (RFC 9110, 8.3 to 8.7).
 */
const DESCRIBES_BODY = new Set([
  'content-disposition',
  'content-encoding',
  'content-language',
  'content-location',
  'content-type',
]);

/** The headers a response has before the handler runs, by lower-case name: those are each request's own. */
export type HeaderBaseline = ReadonlyMap<string, string[]>;

/** @param layers headers of the raw response and, on Fastify, those its reply will add to them */
export function baselineOf(...layers: OutgoingHttpHeaders[]): HeaderBaseline {
  const baseline = new Map<string, string[]>();
  for (const headers of layers) {
    for (const name in headers) {
      baseline.set(name.toLowerCase(), linesOf(headers[name]));
    }
  }
  return baseline;
}

/**
 * What is stored of a response's headers: the lines that appeared, changed or went away since the baseline.
 *
 * @param asSent those that may go out as other bytes than they were set
 */
export function changedHeaders(
  response: ServerResponse,
  baseline: HeaderBaseline,
  { keep = [], drop = [] }: ReplayHeaders = {},
  asSent: readonly HeaderLine[] = [],
): HeaderLine[] {
  const kept = lowerCased(keep);
  const isStored = storedBy(kept, lowerCased(drop));

  const lines: HeaderLine[] = [];
  const present = new Set<string>();
  for (const name of rawHeaderNames(response)) {
    const key = name.toLowerCase();
    present.add(key);
    const bytes = bytesSent(name, asSent) ?? linesOf(response.getHeader(name));
    // One that goes out as other bytes than it has was not meant for a replay, which is sent in another way.
    const isOwn = (): boolean => kept.has(key) || DESCRIBES_BODY.has(key) || !sameLines(baseline.get(key), bytes);
    if (isStored(key) && isOwn()) {
      lines.push(...bytes.map((value): HeaderLine => [name, value]));
    }
  }
  const takenAway = [...baseline.keys()].filter((name) => !present.has(name) && isStored(name));
  return [...lines, ...takenAway.map((name): HeaderLine => [name, null])];
}

function lowerCased(names: readonly string[]): ReadonlySet<string> {
  return new Set(names.map((name) => name.toLowerCase()));
}

function storedBy(kept: ReadonlySet<string>, dropped: ReadonlySet<string>): (name: string) => boolean {
  return (name) => !dropped.has(name) && (kept.has(name) || !isNeverStored(name));
}

function bytesSent(name: string, asSent: readonly HeaderLine[]): string[] | undefined {
  const sent = asSent.filter((line) => line[0] === name).map(([, value]) => value!);
  return sent.length > 0 ? sent : undefined;
}

/** Those that are not as in the baseline. */
export function changedNames(headers: OutgoingHttpHeaders, baseline: HeaderBaseline): string[] {
  return Object.keys(headers).filter((name) => !sameLines(baseline.get(name.toLowerCase()), linesOf(headers[name])));
}

/** Takes a response back to its baseline. */
export function resetHeaders(response: ServerResponse, baseline: HeaderBaseline): void {
  for (const name of response.getHeaderNames()) {
    if (!baseline.has(name)) {
      response.removeHeader(name);
    }
  }
  for (const [name, values] of baseline) {
    if (!sameLines(linesOf(response.getHeader(name)), values)) {
      setLines(response, name, values);
    }
  }
}

/** Puts stored lines onto a response: each name's lines replace those it has. */
export function applyHeaders(response: ServerResponse, lines: readonly HeaderLine[]): void {
  const byName = new Map<string, string[]>();
  for (const [name, value] of lines) {
    if (value === null) {
      response.removeHeader(name);
    } else {
      byName.set(name, [...(byName.get(name) ?? []), value]);
    }
  }
  for (const [name, values] of byName) {
    setLines(response, name, values);
  }
}

function setLines(response: ServerResponse, name: string, values: string[]): void {
  response.setHeader(name, values.length === 1 ? values[0]! : values);
}

function sameLines(one: string[] | undefined, other: string[]): boolean {
  return one?.length === other.length && one.every((line, index) => line === other[index]);
}

/** The names as they go over the wire; Node has the method on every outgoing message, its types on requests only. */
export function rawHeaderNames(response: ServerResponse): string[] {
  return (response as ServerResponse & { getRawHeaderNames(): string[] }).getRawHeaderNames();
}

export function headerOf(lines: readonly HeaderLine[], name: string): string | undefined {
  return lines.find((line) => line[0].toLowerCase() === name)?.[1] ?? undefined;
}

function linesOf(value: OutgoingHttpHeader | undefined): string[] {
  return value === undefined ? [] : Array.isArray(value) ? value : [String(value)];
}
