export { IdempotencyContext } from './idempotency-context.decorator.js';
export {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyKeyMalformedException,
  IdempotencyKeyMissingException,
  IdempotencyKeyReusedException,
  IdempotencyRequestInFlightException,
  IdempotencyResponseNotKeptException,
  IdempotencyStoreUnavailableException,
  IdempotencyTimeoutException,
  IdempotencyTransactionFailedException,
  IdempotencyUnsupportedMediaTypeException,
  TransactionRolledBackError,
} from './idempotency.exceptions.js';
export type { ProblemDocument } from './idempotency.exceptions.js';
export { IdempotencyModule } from './idempotency.module.js';
export type {
  IdempotencyModuleOptions,
  IdempotentOptions,
  InFlightPolicy,
  IsolationLevel,
  PurgeOptions,
  ReplayHeaders,
  Resolver,
} from './idempotency.options.js';
export { IdempotencyOptionError } from './idempotency.options-validation.js';
export { IdempotencyService } from './idempotency.service.js';
export { Idempotent } from './idempotent.decorator.js';
export { UnreadBodyError } from './http/unread-body.error.js';
export type { StoredKey } from './persistence/key-store.js';
export { idempotencyMigrations, idempotencyMigrationsIn } from '../migrations/index.js';
