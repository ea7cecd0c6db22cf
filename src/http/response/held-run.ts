import type { HeldResponse } from './kept-response.js';
import type { Writer } from './writer.js';

/** A run of the route, as far as its response is concerned. */
export interface HeldRun {
  readonly maxBodyBytes: number;
  readonly maxHeldBytes: number;
  /** Whether the running code was started by its handler, and does not write what the handler has returned. */
  isItsCode(): boolean;
  /** Whether more must be held however much it is: the handler runs, or the body is read from its transaction. */
  mustHoldOn(): boolean;
  /** Whoever writes the head at this moment. */
  writer(): Writer;
  /** The response has ended, or its body has outgrown the cap, or its writer has given it up. Called once. */
  responseEnded(response: HeldResponse): void;
  /** More must be held than may be: the run has to answer something else. */
  responseOutgrown(): void;
}
