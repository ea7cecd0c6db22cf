import { Module } from '@nestjs/common';
import { IdempotencyTelemetry } from './idempotency-telemetry.js';

/**
 * Metrics and spans of idempotent requests, by the providers that the application has registered with
 * `@opentelemetry/api`. Import it beside `IdempotencyModule`.
 */
@Module({ providers: [IdempotencyTelemetry] })
export class IdempotencyTelemetryModule {}
