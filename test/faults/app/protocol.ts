/** What the suite and an instance of the application say to each other over the channel between them. */
import type { Failpoint } from '../../../src/util/failpoint.js';

/** Exit code of an instance that could not start, because PostgreSQL died under it: EX_TEMPFAIL of sysexits.h. */
export const BOOT_FAILED = 75;

export interface InstanceConfig {
  databaseUrl: string;
  /** Whether the database is reached through the proxy. */
  connection: 'direct' | 'proxied';
  adapter: 'express' | 'fastify';
  /** How far the application's clock is off. */
  clockOffsetMs: number;
  poolSize: number;
  /** Where the provider is that handlers in lease mode call. */
  providerUrl: string;
  /** PostgreSQL knows its sessions by it. */
  name: string;
}

/** Dies at the `hit`-th passage of the failpoint from now on; none disarms. */
export interface ArmMessage {
  failpoint: Failpoint | undefined;
  hit: number;
}

export interface ReadyMessage {
  port: number;
  bootMs: number;
}

/** Asks for a {@link PoolReport}. */
export interface ReportMessage {
  report: 'pool';
}

export interface PoolReport {
  total: number;
  idle: number;
  waiting: number;
}

/** What a handler asks the provider for; the key that makes it one is in the Idempotency-Key header, where there is one. */
export interface ProviderCall {
  /** The suite's own: whose call it is. */
  key: string;
  step: string;
  attempt: number;
}

/** The same for every call under one downstream key. */
export interface ProviderReceipt {
  id: string;
}

/** What an operator decides about an operation whose outcome is unknown. */
export type Decision = 'release' | 'resolve';

/** The receipt of an operation that an operator has brought to its end. */
export function operatorReceipt(key: string): string {
  return `operator ${key}`;
}
