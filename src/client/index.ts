/** The other end of the wire: on `fetch` alone, in browsers and wherever else there is one. Imports nothing of the server's. */
export { idempotent } from './idempotent.js';
export { operation } from './operation.js';
export { poll } from './poll.js';
export { IdempotentRequestError } from './errors.js';
export type { AttemptOptions, Progress } from './attempts.js';
export type { AnswerLike } from './answers.js';
export type { Outcome, Problem, Reason } from './errors.js';
export type { IdempotentInit, IdempotentOptions } from './idempotent.js';
export type { KeyStorage, Operation, OperationOptions, PendingOperation, WebStorage } from './operation.js';
export type { JobAnswer, PollOptions } from './poll.js';
