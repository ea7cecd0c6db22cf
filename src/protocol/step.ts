/** What a later attempt gets of a step without running it; without members it returned `undefined`. */
export interface StepOutcome {
  returned?: unknown;
  threw?: { status: number; response: unknown };
  /** Beside `threw`: the error was not stored for what it is, but because the handler went on with it. */
  failure?: StepFailure;
  /** Not of a step at all: the provider keeps an error under this many keys of the step. */
  keysUsedUp?: { step: string; count: number };
  /** Beside `threw`: the step has had its effect, or may have, and this is why nothing is known of it. */
  lost?: string;
  /** All of it, where it is encrypted; beside `keysUsedUp` and `lost`, which statements go by. */
  sealed?: readonly [keyId: string, bytes: string];
}

/** What is kept of an error; its class is not. */
export interface StepFailure {
  name: string;
  message: string;
  /** Its own properties that are numbers, booleans or short texts, such as `code`. */
  properties: Record<string, string | number | boolean>;
  isHttp: boolean;
}

/** A finished step. */
export interface FinishedStep {
  name: string;
  /** One more than the steps that had ended in its attempt when it began. */
  position: number;
  outcome: StepOutcome;
  /** Length of the outcome as JSON. */
  bytes: number;
}

/** The place of a step that an operator lets code come by wherever it does, or not at all. */
export const ANY_POSITION = 2_147_483_647;
