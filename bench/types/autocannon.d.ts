/** The part of autocannon that the bench uses; it brings no types of its own. */
declare module 'autocannon' {
  import type { EventEmitter } from 'node:events';

  export interface Client extends EventEmitter {
    getRequestBuffer(): Buffer;
  }

  export interface Options {
    url: string;
    method: string;
    headers: Record<string, string>;
    body: string;
    connections: number;
    /** Seconds. */
    duration?: number;
    /** Requests in all; takes the place of `duration`. */
    amount?: number;
    /** Seconds until a request counts as failed. */
    timeout: number;
    /** Milliseconds between looks at whether it is over. */
    sampleInt: number;
    skipAggregateResult: boolean;
    setupClient(client: Client): void;
  }

  export interface Run extends EventEmitter {
    stop(): void;
  }

  export default function autocannon(options: Options, done: (error: Error | null) => void): Run;
}
