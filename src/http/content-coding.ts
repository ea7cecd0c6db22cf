import type { IncomingHttpHeaders } from 'node:http';
import type { Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import type { HeaderLine } from '../protocol/response.js';
import { headerOf } from './recorded-response.js';

/** A response as one client can take it. */
export interface Acceptable {
  readonly headers: HeaderLine[];
  readonly body: Buffer;
  /** What comes behind `body`. Whoever does not read it to its end returns it. */
  readonly rest?: AsyncIterator<Buffer>;
}

/**
 * So much is decoded before the head is sent: most answers then have a length, and one whose body is not what its head
 * says goes out as it is. A body of 1 MiB may decode to a thousand times of that, which nobody should hold in memory.
 */
const READ_AHEAD_BYTES = 1024 * 1024;

/** Fewer and larger pieces than zlib's own 16 KiB, of which each is a turn of the event loop. */
const PIECES = { chunkSize: 64 * 1024 };

/** Since Node.js 22.15. */
const { createZstdDecompress } = zlib as { createZstdDecompress?: typeof zlib.createGunzip };

const DECODERS: Record<string, ((options: typeof PIECES) => Transform) | undefined> = {
  gzip: zlib.createGunzip,
  'x-gzip': zlib.createGunzip,
  deflate: zlib.createInflate,
  br: zlib.createBrotliDecompress,
  zstd: createZstdDecompress,
};

/**
 * Undoes a stored Content-Encoding that the retrying client does not accept (RFC 9110, 12.5.3). The ETag goes with it:
 * it named the encoded bytes.
 */
export async function acceptableTo(request: IncomingHttpHeaders, recorded: Acceptable): Promise<Acceptable> {
  const coding = headerOf(recorded.headers, 'content-encoding')?.toLowerCase();
  const decoder = coding === undefined ? undefined : DECODERS[coding];
  if (
    coding === undefined ||
    decoder === undefined ||
    recorded.body.length === 0 ||
    accepts(request['accept-encoding'], coding)
  ) {
    return recorded;
  }
  const decoded = await decode(decoder(PIECES), recorded.body).catch(() => undefined);
  if (decoded === undefined) {
    return recorded; // it is not what it says: then as the first client got it
  }
  const own = new Set(['content-encoding', 'content-length', 'etag']);
  return {
    headers: [
      ...recorded.headers.filter(([name]) => !own.has(name.toLowerCase())),
      ['Content-Encoding', null],
      ['ETag', null],
      ['Content-Length', decoded.rest === undefined ? String(decoded.body.length) : null],
    ],
    ...decoded,
  };
}

/** On zlib's own threads, and no faster than it is read. */
async function decode(decoder: Transform, body: Buffer): Promise<Pick<Acceptable, 'body' | 'rest'>> {
  decoder.end(body);
  const rest = decoder[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const chunks: Buffer[] = [];
  for (let bytes = 0; bytes < READ_AHEAD_BYTES; bytes += chunks.at(-1)!.length) {
    const next = await rest.next();
    if (next.done === true) {
      return { body: Buffer.concat(chunks) };
    }
    chunks.push(next.value);
  }
  return { body: Buffer.concat(chunks), rest };
}

function accepts(acceptEncoding: IncomingHttpHeaders['accept-encoding'], encoding: string): boolean {
  if (acceptEncoding === undefined) {
    return true; // who does not say takes any, as the first client of the same kind did
  }
  const offers = new Map(
    String(acceptEncoding)
      .toLowerCase()
      .split(',')
      .map((offer): [string, boolean] => {
        const [coding = '', ...parameters] = offer.split(';').map((part) => part.trim());
        return [coding, !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter))];
      }),
  );
  return offers.get(encoding) ?? offers.get('*') ?? false;
}
