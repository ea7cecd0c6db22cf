import { inspect } from 'node:util';
import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit, Optional } from '@nestjs/common';
import { ModuleRef, Reflector } from '@nestjs/core';
import { getDataSourceToken } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { Encryption } from './protocol/encryption.js';
import { ScopeLimits } from './requests/scope-limits.js';
import { EventPublisher } from './requests/event-publisher.js';
import { Claims } from './requests/claims.js';
import { ExpectedReplays } from './requests/expected-replays.js';
import { Observer } from './requests/observer.js';
import { Connections } from './postgres/connections.js';
import { effectiveSettings } from './effective-settings.js';
import { watchExceptions } from './http/response/exception-watch.js';
import { MODULE_OPTIONS_TOKEN } from './idempotency.module-definition.js';
import { DEFAULT_OPTIONS, type IdempotencyModuleOptions } from './protocol/options.js';
import { IdempotencyOptionError, validateModuleOptions } from './options-validation.js';
import { AmbientTransactions } from './postgres/ambient/ambient-transactions.js';
import { dataSourceSchema } from './postgres/data-source-schema.js';
import { assertProtocolClient } from './postgres/driver-check.js';
import { adviceOnPlainTables } from './postgres/statements/citus-tables.js';
import { KeyStore } from './postgres/statements/key-store.js';
import { ObservedKeys } from './postgres/statements/observed-keys.js';
import { assertUsable, findKeyTables, isDistributed, type KeyTables } from './postgres/statements/key-tables.js';
import { LeaseService } from './modes/lease/lease.service.js';
import { LeaseStore } from './postgres/statements/lease-store.js';
import { type Pulse, takePulse } from './postgres/statements/pulse.js';
import { SearchPathWatch } from './postgres/search-path-watch.js';
import { KEYS_TABLE, tableName } from './postgres/table-name.js';
import { StatementRunner } from './postgres/statement-runner.js';
import { adviceOnTransactional } from './postgres/ambient/transactional-decorator.js';
import { RouteOptionsRegistry } from './route-options.js';
import { otherNestJs, otherTypeOrm } from './two-copies.js';
import { StoredKeys } from './postgres/statements/stored-keys.js';

interface Parts {
  schema: string;
  dataSource: DataSource;
  store: KeyStore;
  leaseStore: LeaseStore;
  transactions: AmbientTransactions;
  connections: Connections;
  keys: StoredKeys;
  claims: Claims;
  leases: LeaseService;
  observer: Observer;
}

/** What the module is made of, put together at boot. */
@Injectable()
export class IdempotencyRuntime implements OnModuleInit, OnApplicationShutdown {
  private static readonly logger = new Logger('Idempotency');

  readonly routes: RouteOptionsRegistry;
  readonly problemBaseUrl: string;
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
    @Inject(MODULE_OPTIONS_TOKEN) readonly options: IdempotencyModuleOptions,
    @Optional() moduleRef?: ModuleRef,
    @Optional() reflector?: Reflector,
  ) {
    if (moduleRef === undefined || reflector === undefined) {
      throw new Error(`IdempotencyModule: ${otherNestJs()}`);
    }
    this.moduleRef = moduleRef;
    validateModuleOptions(options);
    watchExceptions();
    this.routes = new RouteOptionsRegistry(reflector, options);
    this.problemBaseUrl = options.problemBaseUrl ?? DEFAULT_OPTIONS.problemBaseUrl;
    this.encryption = new Encryption(options.encryption);
    this.events = new EventPublisher(options.onEvent, options.hashSecret, (work) => this.transactions.outside(work));
  }

  /** The DataSource is looked up only now: its module need not be imported before this one. */
  async onModuleInit(): Promise<void> {
    const dataSource = this.findDataSource();
    await assertProtocolClient(dataSource);
    const tables = await this.findTables(dataSource);
    const { schema, searchPath } = tables;
    const onCitus = isDistributed(tables);
    const searchPaths = new SearchPathWatch(searchPath, (message) => IdempotencyRuntime.logger.warn(message));
    const runner = new StatementRunner();
    const store = new KeyStore(schema, runner, searchPaths, onCitus);
    const encoding = await store.databaseEncoding(dataSource);
    if (encoding !== 'UTF8') {
      // A scope, a path, a header or a step's result may hold any character, and one that has no place in the database
      // would be met only at the request that brings it: on each of its retries.
      throw new Error(
        `IdempotencyModule: the database keeps its text in ${encoding}, which cannot hold every scope or response. ` +
          `Use a database in UTF8: create database … encoding 'UTF8' template template0.`,
      );
    }
    const transactions = new AmbientTransactions(dataSource);
    const leaseStore = new LeaseStore(schema, runner, searchPaths, onCitus);
    const connections = new Connections(transactions, runner);
    const leases = new LeaseService(leaseStore, connections, runner, this.encryption);
    const claims = new Claims(store, connections, leases);
    const keys = new StoredKeys(store, connections);
    const observer = new Observer(new ObservedKeys(schema), connections);
    this.parts = { schema, dataSource, store, leaseStore, transactions, connections, keys, claims, leases, observer };
    // Depending on the order of the imports, TypeORM's module is shut down before this one.
    transactions.closeAfter(async () => {
      await claims.idle();
      await observer.idle();
    });
    IdempotencyRuntime.logger.log(effectiveSettings(this.options, schema));
    const advice = [
      adviceOnTransactional(dataSource),
      tables.citus?.keysElsewhere === true && (await adviceOnPlainTables(dataSource, entityTablesOf(dataSource))),
    ];
    advice.filter((each) => typeof each === 'string').forEach((each) => IdempotencyRuntime.logger.warn(each));
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

  /** Whether the tables are those of this version. */
  async isSchemaCurrent(): Promise<boolean> {
    const { connections, schema } = this.ready;
    return (await findKeyTables(connections, schema)) !== undefined;
  }

  get dataSource(): DataSource {
    return this.ready.dataSource;
  }

  get store(): KeyStore {
    return this.ready.store;
  }

  get leaseStore(): LeaseStore {
    return this.ready.leaseStore;
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

  private async findTables(dataSource: DataSource): Promise<KeyTables> {
    const schema = this.options.schema ?? dataSourceSchema(dataSource);
    const tables = await findKeyTables(dataSource, schema).catch(cannotUse);
    if (tables === undefined) {
      const option = schema === undefined ? '' : ` --schema ${shellWord(schema)}`;
      const migrations =
        this.options.schema === undefined
          ? 'idempotencyMigrations'
          : `idempotencyMigrationsIn(${inspect(this.options.schema)})`;
      throw new Error(
        `IdempotencyModule: the table ${tableName(KEYS_TABLE, schema)}, or a later one, is not there. Create them by "npx nestjs-idempotency migration:run${option}" ` +
          `(with DATABASE_URL or --url), or add \`...${migrations}\` from 'nestjs-idempotency/migrations' to your DataSource's \`migrations\`.`,
      );
    }
    const { localWrites = DEFAULT_OPTIONS.localWrites } = this.options;
    await assertUsable(dataSource, tables, localWrites).catch(cannotUse);
    return tables;
  }

  private findDataSource(): DataSource {
    const { dataSource: name } = this.options;
    let dataSource: DataSource;
    try {
      dataSource = this.moduleRef.get<DataSource>(getDataSourceToken(name), { strict: false });
    } catch (cause) {
      const twoCopies = otherTypeOrm();
      if (twoCopies !== undefined) {
        throw new Error(`IdempotencyModule: its DataSource cannot be found, since ${twoCopies}`, { cause });
      }
      throw new IdempotencyOptionError(
        name === undefined
          ? 'IdempotencyModule: there is no default DataSource. Import TypeOrmModule.forRoot(), or name yours by the option `dataSource`.'
          : `IdempotencyModule: option 'dataSource' names '${name}', but no DataSource of that name was given to TypeOrmModule.forRoot().`,
        { cause },
      );
    }
    if (dataSource.options.type !== 'postgres') {
      throw new IdempotencyOptionError(
        `IdempotencyModule: the DataSource is of type '${dataSource.options.type}', but keys are kept in PostgreSQL. Name a DataSource of type 'postgres' by the option \`dataSource\`.`,
      );
    }
    return dataSource;
  }
}

function entityTablesOf({ entityMetadatas }: DataSource): string[] {
  return entityMetadatas.map(({ tableName: table, schema }) => tableName(table, schema));
}

/** @throws Error always */
function cannotUse(cause: Error): never {
  throw new Error(`IdempotencyModule: ${cause.message}`, { cause });
}

/** As a shell takes it for one word, whatever is in it. */
function shellWord(text: string): string {
  return /^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
