export { IdempotencyHealthIndicator, IdempotencyHealthModule } from './idempotency-health.js';
export type { IdempotencyHealth, IdempotencyHealthOptions } from './idempotency-health.js';
