import { createHash } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { bytesOf } from './write-arguments.js';

/** A response that has ended, as its writers wrote it. */
export interface WatchedResponse {
  status: number;
  bodyBytes: number;
  /** Of the body, in hexadecimal. */
  sha256: string;
}

type Write = (this: ServerResponse, ...args: unknown[]) => unknown;

/**
 * Looks at what passes on its way to Node, and holds nothing. Whatever it meets, the response goes on.
 *
 * @param ended called once, when the writers are done with it
 */
export function watchResponse(response: ServerResponse, ended: (watched: WatchedResponse) => void): void {
  const hash = createHash('sha256');
  let bodyBytes = 0;
  const see = (chunk: unknown, encoding: unknown): void => {
    if (chunk === undefined || chunk === null || typeof chunk === 'function') {
      return;
    }
    try {
      const bytes = bytesOf(chunk, encoding);
      hash.update(bytes);
      bodyBytes += bytes.length;
    } catch {
      // What Node does not write it refuses itself.
    }
  };
  const { write, end } = response as unknown as { write: Write; end: Write };
  const watching = {
    write(this: ServerResponse, ...args: unknown[]): unknown {
      see(args[0], args[1]);
      return write.apply(this, args);
    },
    end(this: ServerResponse, ...args: unknown[]): unknown {
      see(args[0], args[1]);
      Object.assign(response, { write, end });
      const returned = end.apply(this, args);
      ended({ status: response.statusCode, bodyBytes, sha256: hash.digest('hex') });
      return returned;
    },
  };
  Object.assign(response, watching);
}
