export { IdempotencyThrottlerGuard } from './idempotency-throttler.guard.js';
