import { createRequire } from 'node:module';
import type { PgInstrumentation as PgInstrumentationType } from '@opentelemetry/instrumentation-pg';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import type { Span, Tracer } from './protocol.js';

const require = createRequire(import.meta.url);
const { PgInstrumentation } = require('@opentelemetry/instrumentation-pg') as {
  PgInstrumentation: typeof PgInstrumentationType;
};

const exporter = new InMemorySpanExporter();
const instrumentation = new PgInstrumentation();
instrumentation.setTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
instrumentation.disable();

type Query = (...given: unknown[]) => unknown;
interface Traced extends Record<string, unknown> {
  callback: (...given: unknown[]) => void;
}

const { Client } = require('pg') as { Client: { prototype: { query: Query } } };
const { query: original } = Client.prototype;

/** What tracing agents do to a query object, one habit each. */
const HABITS: Partial<Record<Tracer, (query: Traced) => Traced>> = {
  copy: (query) => ({ ...query }),
  'new prototype': (query) => Object.create(query) as Traced,
  'wrapped callback': (query) => {
    const { callback } = query;
    return Object.assign(query, {
      text: `${String(query['text'])} /* traced */`,
      callback(this: unknown, ...given: unknown[]) {
        Reflect.apply(callback, this, given);
      },
    });
  },
};

export function trace(tracer: Tracer): void {
  instrumentation.disable();
  Client.prototype.query = original;
  exporter.reset();
  const habit = HABITS[tracer];
  if (habit !== undefined) {
    Client.prototype.query = function (...given) {
      const [query, ...others] = given;
      return typeof query === 'object' && 'submit' in query!
        ? original.call(this, habit(query as unknown as Traced), ...others)
        : original.apply(this, given);
    };
  } else if (tracer !== 'none') {
    instrumentation.setConfig({ addSqlCommenterCommentToQueries: tracer === 'sqlcommenter' });
    instrumentation.enable();
  }
}

export function spans(): Span[] {
  return exporter
    .getFinishedSpans()
    .map(({ name, attributes }) => ({ name, text: String(attributes['db.query.text'] ?? '') }));
}
