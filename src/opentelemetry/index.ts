export { IdempotencyTelemetryModule } from './idempotency-telemetry.module.js';
