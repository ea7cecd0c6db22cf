import type { HeadWriting } from './head-bytes.js';
import type { WriteCallback } from './write-arguments.js';
import type { Writer } from './writer.js';

/** The final bytes of a response, before any of them is sent. */
export interface HeldResponse {
  status: number;
  /** All of the body, or null when it grew beyond the cap. */
  body: Buffer | null;
  bodyBytes: number;
  /** Who has written its head. */
  writer: Writer;
}

/** What one run has written. */
export class KeptResponse {
  readonly chunks: Buffer[] = [];
  readonly callbacks: WriteCallback[] = [];
  bodyBytes = 0;
  headSent = false;
  ended = false;
  told = false;
  broken = false;
  writer: Writer = 'framework';
  status = 0;
  statusMessage = '';
  /** How the head was written. */
  readonly head: HeadWriting = { by: 'end' };

  /** What was kept so far, in one piece; joined once. */
  joined(): Buffer {
    if (this.chunks.length !== 1) {
      this.chunks.splice(0, Infinity, Buffer.concat(this.chunks));
    }
    return this.chunks[0]!;
  }
}
