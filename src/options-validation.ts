import { inspect } from 'node:util';
import { KEY_BYTES, keyBytes } from './protocol/encryption.js';
import type { IdempotencyModuleOptions, IdempotentOptions } from './protocol/options.js';
import { isSchemaName, SCHEMA_NAME } from './postgres/table-name.js';

// Long because it is one table: a line an option, with what it accepts.

/** An option that cannot work. Thrown at boot, never at the first request. */
export class IdempotencyOptionError extends Error {
  override readonly name = 'IdempotencyOptionError';
}

interface Check {
  readonly accepts: (value: unknown) => boolean;
  /** Completes "must be …". */
  readonly expected: string;
  /** Whether a value is not to be quoted, were it wrong ever so. */
  readonly isSecret?: true;
}

/** By trial, a shorter one is found. */
const MIN_SECRET_LENGTH = 16;

const DAY_MS = 24 * 60 * 60 * 1000;
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/; // token, RFC 9110 section 5.6.2

const aFunction = (expected: string): Check => ({ accepts: (value) => typeof value === 'function', expected });

const wholeNumber = (min: number, max: number, unit = ''): Check => ({
  accepts: (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= max,
  expected: `a whole number${unit} from ${min} to ${max}`,
});

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const hasOnly = (value: Record<string, unknown>, checks: Record<string, Check>): boolean =>
  Object.entries(value).every(
    ([name, member]) => Object.hasOwn(checks, name) && (member === undefined || checks[name]!.accepts(member)),
  );

const headerNames: Check = {
  accepts: (value) => Array.isArray(value) && value.every((name) => typeof name === 'string' && HEADER_NAME.test(name)),
  expected: 'a list of header names',
};

const fieldPaths: Check = {
  accepts: (value) =>
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((path) => typeof path === 'string' && path.split('.').every(Boolean)),
  expected: "a list of fields of the body, such as 'meta.sentAt'",
};

const waitMs = wholeNumber(1, 60_000, ' of milliseconds');

const oneOf = (...values: string[]): Check => ({
  accepts: (value) => values.includes(value as string),
  expected: values.map((value) => `'${value}'`).join(', '),
});

const ROUTE_CHECKS: Record<keyof IdempotentOptions, Check> = {
  mode: oneOf('transaction', 'lease', 'observe'),
  leaseMs: wholeNumber(100, 3_600_000, ' of milliseconds'),
  stepTimeoutMs: wholeNumber(1, 2_147_000_000, ' of milliseconds'),
  maxStepsBytes: wholeNumber(1, 100 * 1024 * 1024, ' of bytes'),
  onInterrupted: oneOf('resume', 'fail'),
  header: {
    accepts: (value) => typeof value === 'string' && HEADER_NAME.test(value),
    expected: "the name of a request header, such as 'Idempotency-Key'",
  },
  replayedHeader: {
    accepts: (value) => typeof value === 'string' && HEADER_NAME.test(value),
    expected: "the name of a response header, such as 'Idempotency-Replayed'",
  },
  expiresHeader: {
    accepts: (value) => value === false || (typeof value === 'string' && HEADER_NAME.test(value)),
    expected: "false, or the name of a response header, such as 'Idempotency-Expires'",
  },
  key: aFunction('a function that takes the ExecutionContext and returns the key'),
  keyPattern: {
    // a sticky or global expression keeps state between two tests and would refuse every other key
    accepts: (value) => value instanceof RegExp && !value.global && !value.sticky,
    expected: 'a regular expression without the flags g and y',
  },
  required: { accepts: (value) => typeof value === 'boolean', expected: 'true or false' },
  scope: aFunction('a function that takes the ExecutionContext and returns whose key it is'),
  sharedScope: oneOf('warn', 'error'),
  fingerprint: {
    accepts: (value) =>
      typeof value === 'function' ||
      (isObject(value) &&
        hasOnly(value, { omit: fieldPaths, pick: fieldPaths }) &&
        (value.omit ?? value.pick) !== undefined &&
        (value.omit === undefined || value.pick === undefined)),
    expected: `a function that takes the ExecutionContext and returns what a retry must repeat, or { omit } or { pick }, ${fieldPaths.expected}`,
  },
  ttlMs: wholeNumber(1, 3650 * DAY_MS, ' of milliseconds'),
  inFlight: {
    accepts: (value) =>
      value === 'reject' ||
      (isObject(value) && 'waitMs' in value && hasOnly(value, { waitMs }) && value.waitMs !== undefined),
    expected: `'reject' or { waitMs: ${waitMs.expected} }`,
  },
  storeErrors: aFunction('a function that takes a status and returns whether that error is stored'),
  isolation: oneOf('READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'),
  retries: wholeNumber(0, 20),
  timeoutMs: wholeNumber(1, 2_147_000_000, ' of milliseconds'),
  store: { accepts: (value) => typeof value === 'boolean', expected: 'true or false' },
  redact: aFunction('a function that takes a response and returns what of it is stored'),
  authorizeReplay: aFunction(
    'a function that takes the ExecutionContext and what is recorded, and returns true or false',
  ),
  maxInFlight: wholeNumber(1, 100_000),
  maxBodyBytes: wholeNumber(0, 100 * 1024 * 1024, ' of bytes'),
  maxHeldBytes: wholeNumber(0, 1024 * 1024 * 1024, ' of bytes'),
  replayHeaders: {
    accepts: (value) => isObject(value) && hasOnly(value, { keep: headerNames, drop: headerNames }),
    expected: '{ keep, drop }, each a list of header names',
  },
};

const encryptionKeys: Check = {
  accepts: (value) =>
    isObject(value) &&
    Object.keys(value).length > 0 &&
    Object.values(value).every(
      (key) => (typeof key === 'string' || key instanceof Uint8Array) && keyBytes(key).length === KEY_BYTES,
    ),
  expected: '',
};

const secret: Check = {
  accepts: (value) => typeof value === 'string' && value.length >= MIN_SECRET_LENGTH,
  expected: `a text of at least ${MIN_SECRET_LENGTH} characters`,
  isSecret: true,
};

const encryption: Check = {
  accepts: (value) =>
    isObject(value) &&
    hasOnly(value, { keys: encryptionKeys, currentKeyId: { accepts: (id) => typeof id === 'string', expected: '' } }) &&
    encryptionKeys.accepts(value.keys) &&
    (value.currentKeyId === undefined || Object.hasOwn(value.keys as object, value.currentKeyId as string)),
  expected: `{ keys, currentKeyId }, each of the keys ${KEY_BYTES} bytes or the base64 of them, and the id of one of them`,
  isSecret: true,
};

const intervalMs = wholeNumber(1_000, DAY_MS, ' of milliseconds');
const batchSize = wholeNumber(1, 100_000);

const MODULE_CHECKS: Record<keyof IdempotencyModuleOptions, Check> = {
  ...ROUTE_CHECKS,
  dataSource: {
    accepts: (value) => typeof value === 'string' && value !== '',
    expected: 'the name of a DataSource, as given to TypeOrmModule.forRoot({ name })',
  },
  schema: {
    accepts: isSchemaName,
    expected: SCHEMA_NAME,
  },
  problemBaseUrl: {
    accepts: (value) => typeof value === 'string' && /^[a-z][a-z0-9+.-]*:[!-;=?-~]+$/i.test(value),
    expected: "an absolute URL or URN, such as 'https://api.example.com/problems/'",
  },
  onEvent: aFunction('a function that takes an event'),
  hashSecret: secret,
  fingerprintSecret: secret,
  encryption,
  purge: {
    accepts: (value) => value === false || (isObject(value) && hasOnly(value, { intervalMs, batchSize })),
    expected: `false or { intervalMs: ${intervalMs.expected}, batchSize: ${batchSize.expected} }`,
  },
  localWrites: { accepts: (value) => typeof value === 'boolean', expected: 'true or false' },
};

/** @throws IdempotencyOptionError that names the option, its value and the remedy */
export function validateModuleOptions(options: IdempotencyModuleOptions): void {
  validate(options, MODULE_CHECKS, 'IdempotencyModule');
}

/** @param where the route, for the message: `PaymentsController.create` */
export function validateRouteOptions(options: IdempotentOptions, where: string): void {
  validate(options, ROUTE_CHECKS, `@Idempotent() of ${where}`);
}

function validate(options: unknown, checks: Record<string, Check>, where: string): void {
  if (!isObject(options)) {
    throw new IdempotencyOptionError(`${where}: the options must be an object, not ${inspect(options)}.`);
  }
  for (const [name, value] of Object.entries(options)) {
    const check = Object.hasOwn(checks, name) ? checks[name] : undefined;
    if (check === undefined) {
      throw new IdempotencyOptionError(
        `${where}: there is no option '${name}'. The options are ${Object.keys(checks).join(', ')}.`,
      );
    }
    if (value !== undefined && !check.accepts(value)) {
      const shown = check.isSecret ? '' : `, not ${inspect(value)}`;
      throw new IdempotencyOptionError(`${where}: option '${name}' must be ${check.expected}${shown}.`);
    }
  }
}
