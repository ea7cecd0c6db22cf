import { type Attributes, type Meter, metrics, SpanKind, trace, type Tracer } from '@opentelemetry/api';
import { Injectable, type OnModuleInit } from '@nestjs/common';
import { IdempotencyRuntime } from '../idempotency.runtime.js';
import type { IdempotencyEvent, ObservedEvent, RequestEvent, StepEvent } from '../protocol/events.js';
import { KEYS_TABLE } from '../postgres/table-name.js';
import { currentTraceparent, linkTo } from './traceparent.js';

const SCOPE = 'nestjs-idempotency';

/** As the semantic conventions recommend for durations of HTTP and database. */
const SECONDS = { unit: 's', advice: { explicitBucketBoundaries: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30] } };
const BYTES = {
  unit: 'By',
  advice: { explicitBucketBoundaries: [0, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576] },
};

/** A look at the tables is good for so long, however often the metrics are collected. */
const PULSE_LASTS_MS = 10_000;

/** They take a look at each partition, or shard of Citus. */
const SIZES_LAST_MS = 60_000;

/** Metrics and spans of the module's requests, by the global providers of OpenTelemetry. */
@Injectable()
export class IdempotencyTelemetry implements OnModuleInit {
  private readonly tracer: Tracer = trace.getTracer(SCOPE);
  private readonly pulse = lasting(PULSE_LASTS_MS, () => this.runtime.takePulse());
  private readonly sizes = lasting(SIZES_LAST_MS, () => this.runtime.tableSizes());

  constructor(private readonly runtime: IdempotencyRuntime) {}

  /** Only now: the providers need not be there when this is loaded. */
  onModuleInit(): void {
    const meter = metrics.getMeter(SCOPE);
    const tell = recorderOn(meter);
    this.runtime.traceContext = currentTraceparent;
    this.runtime.events.listen((event) => {
      tell(event);
      if (event.type !== 'observed' && ('status' in event || event.type === 'claimed')) {
        this.span(event as RequestEvent);
      }
    });
    this.observe(meter);
  }

  private span(event: RequestEvent): void {
    const span = trace.getActiveSpan();
    span?.setAttributes({
      'idempotency.outcome': event.type,
      'idempotency.replayed': event.type === 'replayed',
      'idempotency.attempt': event.attempt,
      ...(event.keyHash === undefined ? {} : { 'idempotency.key_hash': event.keyHash }),
    });
    const link = event.originalTrace === undefined ? undefined : linkTo(event.originalTrace);
    if (link !== undefined) {
      span?.addLink(link);
    }
    if (event.type === 'claimed' || event.attempt === 0) {
      this.databaseSpan('claim', event.claimMs);
    } else {
      this.databaseSpan('record', event.recordMs);
    }
  }

  /** It has ended by now. */
  private databaseSpan(operation: string, durationMs: number | undefined): void {
    if (durationMs !== undefined) {
      const endedAt = Date.now();
      this.tracer
        .startSpan(`${operation} ${KEYS_TABLE}`, {
          kind: SpanKind.CLIENT,
          startTime: endedAt - durationMs,
          attributes: {
            'db.system.name': 'postgresql',
            'db.operation.name': operation,
            'db.collection.name': KEYS_TABLE,
          },
        })
        .end(endedAt);
    }
  }

  private observe(meter: Meter): void {
    const inFlight = meter.createObservableGauge('idempotency.requests.in_flight', { unit: '{request}' });
    const oldest = meter.createObservableGauge('idempotency.requests.oldest_in_flight', { unit: 's' });
    meter.addBatchObservableCallback(
      (result) => {
        const { count, oldestMs } = this.runtime.claims.inFlight;
        result.observe(inFlight, count);
        result.observe(oldest, oldestMs / 1000);
      },
      [inFlight, oldest],
    );
    const up = meter.createObservableGauge('idempotency.store.up');
    const size = meter.createObservableGauge('idempotency.table.size', { unit: 'By' });
    const expired = meter.createObservableGauge('idempotency.keys.expired', { unit: '{key}' });
    const lag = meter.createObservableGauge('idempotency.purge.lag', { unit: 's' });
    const waiting = meter.createObservableGauge('idempotency.operations.waiting', { unit: '{operation}' });
    meter.addBatchObservableCallback(
      async (result) => {
        const pulse = await this.pulse().catch(() => undefined);
        result.observe(up, pulse?.writable === true ? 1 : 0);
        if (pulse !== undefined) {
          result.observe(expired, pulse.expired);
          result.observe(lag, pulse.purgeLagMs / 1000);
          result.observe(waiting, pulse.waiting);
        }
        for (const [table, bytes] of await this.sizes().catch(() => [])) {
          result.observe(size, bytes, { 'db.collection.name': table });
        }
      },
      [up, size, expired, lag, waiting],
    );
  }
}

/** Asks no more often than that; one that has failed is asked again. */
function lasting<T>(ms: number, ask: () => Promise<T>): () => Promise<T> {
  let last: { readonly takenAt: number; readonly result: Promise<T> } | undefined;
  return () => {
    const now = performance.now();
    if (last === undefined || now - last.takenAt > ms) {
      last = { takenAt: now, result: ask() };
      last.result.catch(() => (last = undefined));
    }
    return last.result;
  };
}

function recorderOn(meter: Meter): (event: IdempotencyEvent) => void {
  const requests = meter.createCounter('idempotency.requests', { unit: '{request}' });
  const observed = meter.createCounter('idempotency.requests.observed', { unit: '{request}' });
  const steps = meter.createCounter('idempotency.steps', { unit: '{step}' });
  const purged = meter.createCounter('idempotency.keys.purged', { unit: '{key}' });
  purged.add(0); // so that it is there before the first purge
  const durations = {
    claimMs: meter.createHistogram('idempotency.claim.duration', SECONDS),
    handlerMs: meter.createHistogram('idempotency.handler.duration', SECONDS),
    recordMs: meter.createHistogram('idempotency.record.duration', SECONDS),
  };
  const bodies = meter.createHistogram('idempotency.response.body.size', BYTES);

  const request = (event: RequestEvent): void => {
    const attributes = attributesOf(event);
    requests.add(1, attributes);
    if (event.type === 'claimed' || event.type === 'lease-taken-over') {
      return; // the end of the request tells its durations
    }
    for (const name of ['claimMs', 'handlerMs', 'recordMs'] as const) {
      if (event[name] !== undefined) {
        durations[name].record(event[name] / 1000, attributes);
      }
    }
    if (event.bodyBytes !== undefined) {
      bodies.record(event.bodyBytes, attributes);
    }
  };
  return (event) => {
    switch (event.type) {
      case 'purge-batch':
        purged.add(event.deleted);
        break;
      case 'observed':
        observed.add(1, { ...attributesOf(event), 'idempotency.outcome': event.outcome });
        break;
      case 'step-run':
      case 'step-remembered':
        steps.add(1, { ...attributesOf(event), 'idempotency.step': event.step });
        break;
      default:
        request(event);
    }
  };
}

function attributesOf(event: RequestEvent | StepEvent | ObservedEvent): Attributes {
  return {
    'http.request.method': event.method,
    'http.route': event.route,
    'idempotency.mode': event.mode,
    'idempotency.outcome': event.type,
  };
}
