import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit, Optional } from '@nestjs/common';
import { HttpAdapterHost, ModuleRef, Reflector } from '@nestjs/core';
import type { DataSource } from 'typeorm';
import { Encryption } from './protocol/encryption.js';
import { ScopeLimits } from './requests/scope-limits.js';
import { EventPublisher } from './requests/event-publisher.js';
import { Claims } from './requests/claims.js';
import { ExpectedReplays } from './requests/expected-replays.js';
import { Observer } from './requests/observer.js';
import { adviceAtBoot, findDataSource, findTables } from './boot-checks.js';
import { Connections } from './postgres/connections.js';
import { AbandonedKeys } from './postgres/statements/abandoned-keys.js';
import { ExpiredKeys } from './postgres/statements/expired-keys.js';
import { effectiveSettings } from './effective-settings.js';
import { watchExceptions } from './http/response/exception-watch.js';
import { watchReplies } from './http/response/reply-watch.js';
import { moduleSettings, type ModuleSettings, routeDefaults } from './module-settings.js';
import { MODULE_OPTIONS_TOKEN } from './idempotency.module-definition.js';
import { type IdempotencyModuleOptions } from './protocol/options.js';
import { validateModuleOptions } from './options-validation.js';
import { AmbientTransactions } from './postgres/ambient/ambient-transactions.js';
import { assertProtocolClient } from './postgres/driver-check.js';
import { KeyStore } from './postgres/statements/key-store.js';
import { ObservedKeys } from './postgres/statements/observed-keys.js';
import { findKeyTables, isDistributed } from './postgres/statements/key-tables.js';
import { OperatorStore } from './postgres/statements/operator-store.js';
import { KEYS_TABLE, STEPS_TABLE } from './postgres/table-name.js';
import { LeaseService } from './modes/lease/lease.service.js';
import { LeaseStore } from './postgres/statements/lease-store.js';
import { type Pulse, takePulse } from './postgres/statements/pulse.js';
import { SearchPathWatch } from './postgres/search-path-watch.js';
import { StatementPreparation } from './postgres/statement-preparation.js';
import { RouteOptionsRegistry } from './route-options.js';
import { otherNestJs } from './two-copies.js';
import { StoredKeys } from './postgres/statements/stored-keys.js';

interface Parts {
  schema: string;
  onCitus: boolean;
  dataSource: DataSource;
  transactions: AmbientTransactions;
  connections: Connections;
  keys: StoredKeys;
  abandonedKeys: AbandonedKeys;
  expiredKeys: ExpiredKeys;
  claims: Claims;
  leases: LeaseService;
  observer: Observer;
}

/** What the module is made of, put together at boot. */
@Injectable()
export class IdempotencyRuntime implements OnModuleInit, OnApplicationShutdown {
  private static readonly logger = new Logger('Idempotency');

  readonly routes: RouteOptionsRegistry;
  readonly settings: ModuleSettings;
  readonly events: EventPublisher;
  readonly encryption: Encryption;
  /** The `traceparent` of the running code; of who traces. */
  traceContext: (() => string | undefined) | undefined;
  readonly scopeLimits = new ScopeLimits();
  readonly expectedReplays = new ExpectedReplays();
  private parts: Parts | undefined;

  private readonly moduleRef: ModuleRef;

  /** What NestJS gives to everybody is absent where it is another copy of NestJS, with classes of its own. */
  constructor(
    @Inject(MODULE_OPTIONS_TOKEN) private readonly options: IdempotencyModuleOptions,
    @Optional() moduleRef?: ModuleRef,
    @Optional() reflector?: Reflector,
  ) {
    if (moduleRef === undefined || reflector === undefined) {
      throw new Error(`IdempotencyModule: ${otherNestJs()}`);
    }
    this.moduleRef = moduleRef;
    validateModuleOptions(options);
    watchExceptions();
    this.routes = new RouteOptionsRegistry(reflector, routeDefaults(options));
    this.settings = moduleSettings(options);
    this.encryption = new Encryption(options.encryption);
    this.events = new EventPublisher(options.onEvent, options.hashSecret, (work) => this.transactions.outside(work));
  }

  /** The DataSource is looked up only now: its module need not be imported before this one. */
  async onModuleInit(): Promise<void> {
    watchReplies(this.moduleRef.get(HttpAdapterHost, { strict: false }).httpAdapter);
    const dataSource = findDataSource(this.moduleRef, this.options.dataSource);
    await assertProtocolClient(dataSource);
    const tables = await findTables(dataSource, this.options.schema, this.settings.localWrites);
    const { schema, searchPath } = tables;
    const onCitus = isDistributed(tables);
    const searchPaths = new SearchPathWatch(searchPath, (message) => IdempotencyRuntime.logger.warn(message));
    const preparation = new StatementPreparation();
    const transactions = new AmbientTransactions(dataSource);
    const connections = new Connections(transactions, preparation);
    const store = new KeyStore(schema, preparation, searchPaths, onCitus);
    const leaseStore = new LeaseStore(schema, preparation, searchPaths, onCitus);
    const leases = new LeaseService(leaseStore, connections, preparation, this.encryption);
    const claims = new Claims(store, connections, leases);
    const observer = new Observer(new ObservedKeys(schema), connections);
    this.parts = {
      schema,
      onCitus,
      dataSource,
      transactions,
      connections,
      claims,
      leases,
      observer,
      keys: new StoredKeys(connections, schema),
      abandonedKeys: new AbandonedKeys(connections, schema),
      expiredKeys: new ExpiredKeys(dataSource, schema, onCitus),
    };
    // Depending on the order of the imports, TypeORM's module is shut down before this one.
    transactions.closeAfter(async () => {
      await claims.idle();
      await observer.idle();
    });
    IdempotencyRuntime.logger.log(effectiveSettings(this.options, schema));
    (await adviceAtBoot(dataSource, tables)).forEach((each) => IdempotencyRuntime.logger.warn(each));
  }

  /** A request whose client has gone may still run: what it writes must not leave its transaction. */
  async onApplicationShutdown(): Promise<void> {
    await this.parts?.claims.idle();
    await this.parts?.observer.idle();
    await this.parts?.leases.close();
    this.parts?.transactions.uninstall();
  }

  /** @throws IdempotencyStoreUnavailableException, or the driver's error */
  takePulse(): Promise<Pulse> {
    const { connections, schema } = this.ready;
    return takePulse(connections, schema);
  }

  /** What keys and steps take on disk, with indexes, in bytes by the table's name. */
  async tableSizes(): Promise<[table: string, bytes: number][]> {
    const { connections, schema, onCitus } = this.ready;
    const { keysBytes, indexesBytes, stepsBytes } = await new OperatorStore(connections, schema, onCitus).disk();
    return [
      [KEYS_TABLE, keysBytes + indexesBytes],
      [STEPS_TABLE, stepsBytes],
    ];
  }

  /** Whether the tables are those of this version. */
  async isSchemaCurrent(): Promise<boolean> {
    const { connections, schema } = this.ready;
    return (await findKeyTables(connections, schema)) !== undefined;
  }

  get dataSource(): DataSource {
    return this.ready.dataSource;
  }

  get abandonedKeys(): AbandonedKeys {
    return this.ready.abandonedKeys;
  }

  get expiredKeys(): ExpiredKeys {
    return this.ready.expiredKeys;
  }

  get transactions(): AmbientTransactions {
    return this.ready.transactions;
  }

  get connections(): Connections {
    return this.ready.connections;
  }

  get keys(): StoredKeys {
    return this.ready.keys;
  }

  get claims(): Claims {
    return this.ready.claims;
  }

  get observer(): Observer {
    return this.ready.observer;
  }

  private get ready(): Parts {
    if (this.parts === undefined) {
      throw new Error('IdempotencyModule is used before the application was initialised: call app.init() first.');
    }
    return this.parts;
  }
}
