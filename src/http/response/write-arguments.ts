import type { OutgoingHttpHeader, OutgoingHttpHeaders } from 'node:http';
import { types } from 'node:util';

export type WriteCallback = (error?: Error | null) => void;
type HeadersArgument = OutgoingHttpHeaders | OutgoingHttpHeader[];

/** The callback of `write(chunk, encoding?, callback?)` and its kin, wherever it stands. */
export function callbackIn(args: unknown[]): WriteCallback | undefined {
  return args.find((argument): argument is WriteCallback => typeof argument === 'function');
}

/** Calls it as Node does: never before the call that it was given to returns. */
export function callBack(args: unknown[], error?: Error): void {
  const done = callbackIn(args);
  if (done !== undefined) {
    process.nextTick(done, error);
  }
}

/** A copy, since the writer may use its buffer again. @throws TypeError for what Node does not write */
export function bytesOf(chunk: unknown, encoding: unknown): Buffer {
  if (typeof chunk === 'string') {
    return Buffer.from(chunk, typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8');
  }
  if (!types.isUint8Array(chunk)) {
    const code = chunk === null ? 'ERR_STREAM_NULL_VALUES' : 'ERR_INVALID_ARG_TYPE';
    throw Object.assign(new TypeError('A chunk must be a string, a Buffer or a Uint8Array.'), { code });
  }
  return Buffer.from(chunk);
}

/** What `writeHead(status, message?, headers?)` sets beside the status. */
export function headArguments(rest: unknown[]): {
  message: string | undefined;
  headers: [name: string, value: string | number | readonly string[]][];
} {
  const message = typeof rest[0] === 'string' ? rest[0] : undefined;
  const headers = rest[message === undefined && rest.length < 2 ? 0 : 1] as HeadersArgument | undefined;
  return { message, headers: headerEntries(headers) };
}

function headerEntries(headers: HeadersArgument | undefined): [string, string | number | readonly string[]][] {
  if (headers === undefined || headers === null) {
    return [];
  }
  if (!Array.isArray(headers)) {
    return Object.entries(headers).filter(
      (entry): entry is [string, string | number | string[]] => entry[1] !== undefined,
    );
  }
  // [name, value, name, value, ...] or [[name, value], ...], a value being one line or several of them. A name that
  // comes again, in whatever case, is a line of its own.
  const pairs = Array.isArray(headers[0])
    ? headers
    : headers.flatMap((name, i) => (i % 2 ? [] : [[name, headers[i + 1]]]));
  const byName = new Map<string, [name: string, lines: string[]]>();
  for (const [name, value] of pairs as [name: string, value: string | number | readonly string[]][]) {
    const entry = byName.get(name.toLowerCase()) ?? [name, []];
    byName.set(name.toLowerCase(), [entry[0], [...entry[1], ...[value].flat().map(String)]]);
  }
  return [...byName.values()].map(([name, lines]) => [name, lines.length === 1 ? lines[0]! : lines]);
}
