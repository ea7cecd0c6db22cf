import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';

export interface ContentDigest {
  readonly size: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

export function digestContent(content: Uint8Array): ContentDigest {
  return { size: content.length, sha256: createHash('sha256').update(content).digest('hex') };
}

/** Reads the file in pieces: an upload on disk may well be larger than what fits in memory. */
export async function digestFile(path: string): Promise<ContentDigest> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    size += chunk.length;
    hash.update(chunk);
  }
  return { size, sha256: hash.digest('hex') };
}
