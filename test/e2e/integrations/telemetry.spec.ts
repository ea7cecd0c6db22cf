import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { context, metrics, SpanKind, trace } from '@opentelemetry/api';
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { TerminusModule } from '@nestjs/terminus';
import { IdempotencyTelemetryModule } from '../../../src/opentelemetry/index.js';
import { IdempotencyHealthModule } from '../../../src/terminus/index.js';
import { queryOn } from '../../support/empty-database.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { IntegrationsController } from './integrations.controller.js';

const spans = new InMemorySpanExporter();
const points = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
const reader = new PeriodicExportingMetricReader({ exporter: points, exportIntervalMillis: 3_600_000 });

context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }));
metrics.setGlobalMeterProvider(new MeterProvider({ readers: [reader] }));

afterAll(() => reader.shutdown());

describe.each(ADAPTERS)('the telemetry of OpenTelemetry on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      instances: 1,
      controllers: [IntegrationsController],
      imports: [IdempotencyTelemetryModule, IdempotencyHealthModule, TerminusModule],
      // as an instrumentation of HTTP does it
      configure: (app) =>
        app.use((_request: unknown, response: { on(event: 'close', listener: () => void): void }, next: () => void) =>
          trace.getTracer('test').startActiveSpan('request', { kind: SpanKind.SERVER }, (span) => {
            response.on('close', () => span.end());
            next();
          }),
        ),
    });
  });

  beforeEach(async () => {
    spans.reset();
    await queryOn(test.databaseUrl, 'truncate idempotency_keys, idempotency_steps');
  });

  afterAll(() => test.close());

  const requests = () => spans.getFinishedSpans().filter(({ name }) => name === 'request');

  it.each(['/payments', '/transfers'])(
    'links a replay to the trace that has produced the response: %s',
    async (path) => {
      await test.post(path, 'k');
      await test.post(path, 'k');
      const [first, replay] = requests();
      expect(first!.attributes).toMatchObject({ 'idempotency.outcome': 'recorded', 'idempotency.replayed': false });
      expect(replay!.attributes).toMatchObject({ 'idempotency.outcome': 'replayed', 'idempotency.replayed': true });
      expect(replay!.links.map(({ context: { traceId, spanId } }) => ({ traceId, spanId }))).toEqual([
        { traceId: first!.spanContext().traceId, spanId: first!.spanContext().spanId },
      ]);
      expect(first!.links).toEqual([]);
    },
  );

  it('shows claim and record as spans of the database, within the span of the request', async () => {
    await test.post('/payments', 'k');
    const [request] = requests();
    const database = spans.getFinishedSpans().filter(({ kind }) => kind === SpanKind.CLIENT);
    expect(database.map(({ name }) => name)).toEqual(['claim idempotency_keys', 'record idempotency_keys']);
    for (const span of database) {
      expect(span.parentSpanContext?.spanId).toBe(request!.spanContext().spanId);
      expect(span.attributes).toMatchObject({
        'db.system.name': 'postgresql',
        'db.collection.name': 'idempotency_keys',
      });
    }
  });

  it('counts requests by outcome, and measures what they took, and what waits', async () => {
    points.reset();
    await test.post('/payments', 'k');
    await test.post('/payments', 'k');
    await test.post('/transfers', 'other');
    await reader.forceFlush();
    const collected = points
      .getMetrics()
      .at(-1)!
      .scopeMetrics.flatMap(({ metrics: all }) => all);
    const of = (name: string) => collected.find(({ descriptor }) => descriptor.name === name);
    const requestsBy = (outcome: string) =>
      of('idempotency.requests')!.dataPoints.filter(
        ({ attributes }) => attributes['idempotency.outcome'] === outcome && attributes['http.route'] === '/payments',
      );
    for (const outcome of ['claimed', 'recorded', 'replayed']) {
      expect(requestsBy(outcome)[0]!.value).toBeGreaterThanOrEqual(1);
    }
    expect(requestsBy('recorded')[0]!.attributes).toMatchObject({
      'http.request.method': 'POST',
      'idempotency.mode': 'transaction',
    });
    expect(collected.map(({ descriptor }) => descriptor.name).toSorted()).toEqual([
      'idempotency.claim.duration',
      'idempotency.handler.duration',
      'idempotency.keys.expired',
      'idempotency.keys.purged',
      'idempotency.operations.waiting',
      'idempotency.purge.lag',
      'idempotency.record.duration',
      'idempotency.requests',
      'idempotency.requests.in_flight',
      'idempotency.requests.oldest_in_flight',
      'idempotency.response.body.size',
      'idempotency.steps',
      'idempotency.store.up',
      'idempotency.table.size',
    ]);
    expect(of('idempotency.store.up')!.dataPoints.at(-1)!.value).toBe(1);
    const sizes = of('idempotency.table.size')!.dataPoints.map(({ attributes, value }) => [
      attributes['db.collection.name'],
      Number(value) > 0,
    ]);
    expect(sizes.slice(-2)).toEqual([
      ['idempotency_keys', true],
      ['idempotency_steps', true],
    ]);
    expect(of('idempotency.claim.duration')!.descriptor.unit).toBe('s');
  });
});
