import { DEFAULT_OPTIONS, type IdempotencyModuleOptions, type IdempotentOptions } from './protocol/options.js';

/** What holds for the module as a whole, with every default filled in: read here, and from nowhere else. */
export interface ModuleSettings {
  readonly ttlMs: number;
  readonly problemBaseUrl: string;
  readonly localWrites: boolean;
  readonly fingerprintSecret: string | undefined;
  readonly purge: { readonly intervalMs: number; readonly batchSize: number; readonly isScheduled: boolean };
}

export function moduleSettings(options: IdempotencyModuleOptions): ModuleSettings {
  const { ttlMs, problemBaseUrl, localWrites, fingerprintSecret, purge } = options;
  const { intervalMs, batchSize } = purge || {};
  return {
    ttlMs: ttlMs ?? DEFAULT_OPTIONS.ttlMs,
    problemBaseUrl: problemBaseUrl ?? DEFAULT_OPTIONS.problemBaseUrl,
    localWrites: localWrites ?? DEFAULT_OPTIONS.localWrites,
    fingerprintSecret,
    purge: {
      intervalMs: intervalMs ?? DEFAULT_OPTIONS.purge.intervalMs,
      batchSize: batchSize ?? DEFAULT_OPTIONS.purge.batchSize,
      isScheduled: purge !== false,
    },
  };
}

/** What of the module's options holds for a route that says nothing else. */
export function routeDefaults(options: IdempotencyModuleOptions): IdempotentOptions {
  const {
    dataSource: _dataSource,
    schema: _schema,
    problemBaseUrl: _url,
    purge: _purge,
    onEvent: _onEvent,
    hashSecret: _hashSecret,
    fingerprintSecret: _fingerprintSecret,
    encryption: _encryption,
    localWrites: _localWrites,
    ...forRoutes
  } = options;
  return forRoutes;
}
