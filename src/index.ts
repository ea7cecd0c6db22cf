export { IDEMPOTENCY_CHANNEL } from './protocol/events.js';
export type {
  EventSource,
  IdempotencyEvent,
  ObservedEvent,
  ObservedOutcome,
  PurgeEvent,
  RequestEvent,
  RequestEventType,
  StepEvent,
} from './protocol/events.js';
export { IdempotencyContext } from './idempotency-context.decorator.js';
export type { StepMethod, TransactionMethod } from './protocol/context.js';
export {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyKeyMalformedException,
  IdempotencyKeyMissingException,
  IdempotencyKeyReusedException,
  IdempotencyLeaseLostException,
  IdempotencyOutcomeUnknownException,
  IdempotencyReplayForbiddenException,
  IdempotencyRequestInFlightException,
  IdempotencyStepsChangedException,
  IdempotencyResponseNotKeptException,
  IdempotencyStoreUnavailableException,
  IdempotencyTimeoutException,
  IdempotencyTooManyInFlightException,
  IdempotencyTransactionFailedException,
  IdempotencyUnsupportedMediaTypeException,
  TransactionOutcomeUnknownError,
  TransactionRolledBackError,
} from './protocol/exceptions.js';
export type { ProblemDocument } from './protocol/exceptions.js';
export { IdempotencyInterceptor } from './idempotency.interceptor.js';
export { IdempotencyModule } from './idempotency.module.js';
export type {
  EncryptionOptions,
  FingerprintFields,
  IdempotencyMode,
  IdempotencyModuleOptions,
  IdempotentOptions,
  InFlightPolicy,
  InterruptionPolicy,
  IsolationLevel,
  PurgeOptions,
  RecordedResponse,
  RedactedResponse,
  ReplayableRecord,
  ReplayHeaders,
  Resolver,
  SharedScopePolicy,
} from './protocol/options.js';
export { IdempotencyOptionError } from './options-validation.js';
export { IdempotencyService } from './idempotency.service.js';
export type { OperatorResponse } from './idempotency.service.js';
export { Idempotent } from './idempotent.decorator.js';
export { UnreadBodyError } from './http/unread-body.error.js';
export { DurableStepError } from './protocol/durable-step.error.js';
export type { StepOptions } from './protocol/step-call.js';
export type { Serialized } from './protocol/serialized.js';
export type { Attention, CompletedKey, StoredKey, UnfinishedKey, UnfinishedState } from './protocol/stored-key.js';
export { idempotencyMigrations, idempotencyMigrationsIn } from '../migrations/index.js';
