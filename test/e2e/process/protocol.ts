import type { Adapter } from '../../support/test-app.js';

/** What stands between the library and pg. */
export const TRACERS = ['none', 'copy', 'new prototype', 'wrapped callback', 'opentelemetry', 'sqlcommenter'] as const;
export type Tracer = (typeof TRACERS)[number];

export interface Server {
  adapter: Adapter;
  pipeline: boolean;
  port: number;
}

export type ToApp = { trace: Tracer } | { spans: true };
export type FromApp = { servers: Server[] } | { tracing: Tracer } | { spans: Span[] };

export interface Span {
  name: string;
  text: string;
}
