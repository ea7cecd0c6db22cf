import { metrics } from '@opentelemetry/api';
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { MeterProvider } from '@opentelemetry/sdk-metrics';

/** For Prometheus to ask, by a route of the application: no server of its own, nothing that is pushed. */
const exporter = new PrometheusExporter({ preventServerStart: true });
const serializer = new PrometheusSerializer();

// The providers of OpenTelemetry are those of the process, and set before anything asks for a meter.
metrics.setGlobalMeterProvider(new MeterProvider({ readers: [exporter] }));

export async function collectMetrics(): Promise<string> {
  const { resourceMetrics } = await exporter.collect();
  return serializer.serialize(resourceMetrics);
}
