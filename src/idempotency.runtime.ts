import { inspect } from 'node:util';
import { Inject, Injectable, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { ModuleRef, Reflector } from '@nestjs/core';
import { getDataSourceToken } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { ClaimService } from './claim.service.js';
import { MODULE_OPTIONS_TOKEN } from './idempotency.module-definition.js';
import { DEFAULT_OPTIONS, type IdempotencyModuleOptions } from './idempotency.options.js';
import { IdempotencyOptionError, validateModuleOptions } from './idempotency.options-validation.js';
import { AmbientTransactions } from './persistence/ambient-transactions.js';
import { dataSourceSchema } from './persistence/data-source-schema.js';
import { KeyStore } from './persistence/key-store.js';
import { RouteOptionsRegistry } from './route-options.js';

/** What the module is made of, put together at boot. */
@Injectable()
export class IdempotencyRuntime implements OnModuleInit, OnApplicationShutdown {
  readonly routes: RouteOptionsRegistry;
  readonly problemBaseUrl: string;
  private parts:
    { dataSource: DataSource; store: KeyStore; transactions: AmbientTransactions; claims: ClaimService } | undefined;

  constructor(
    @Inject(MODULE_OPTIONS_TOKEN) readonly options: IdempotencyModuleOptions,
    private readonly moduleRef: ModuleRef,
    reflector: Reflector,
  ) {
    validateModuleOptions(options);
    this.routes = new RouteOptionsRegistry(reflector, options);
    this.problemBaseUrl = options.problemBaseUrl ?? DEFAULT_OPTIONS.problemBaseUrl;
  }

  /** The DataSource is looked up only now: its module need not be imported before this one. */
  async onModuleInit(): Promise<void> {
    const dataSource = this.findDataSource();
    const schema = this.options.schema ?? dataSourceSchema(dataSource);
    const store = new KeyStore(schema);
    if (!(await store.tableExists(dataSource))) {
      const option = schema === undefined ? '' : ` --schema ${shellWord(schema)}`;
      const migrations =
        this.options.schema === undefined
          ? 'idempotencyMigrations'
          : `idempotencyMigrationsIn(${inspect(this.options.schema)})`;
      throw new Error(
        `IdempotencyModule: the table ${store.table} is not there. Create it by "npx nestjs-idempotency migration:run${option}" ` +
          `(with DATABASE_URL or --url), or add \`...${migrations}\` from 'nestjs-idempotency/migrations' to your DataSource's \`migrations\`.`,
      );
    }
    const transactions = new AmbientTransactions(dataSource);
    this.parts = { dataSource, store, transactions, claims: new ClaimService(store, transactions) };
  }

  /** A request whose client has gone may still run: what it writes must not leave its transaction. */
  async onApplicationShutdown(): Promise<void> {
    await this.parts?.claims.idle();
    this.parts?.transactions.uninstall();
  }

  get dataSource(): DataSource {
    return this.ready.dataSource;
  }

  get store(): KeyStore {
    return this.ready.store;
  }

  get transactions(): AmbientTransactions {
    return this.ready.transactions;
  }

  get claims(): ClaimService {
    return this.ready.claims;
  }

  private get ready(): NonNullable<typeof this.parts> {
    if (this.parts === undefined) {
      throw new Error('IdempotencyModule is used before the application was initialised: call app.init() first.');
    }
    return this.parts;
  }

  private findDataSource(): DataSource {
    const { dataSource: name } = this.options;
    let dataSource: DataSource;
    try {
      dataSource = this.moduleRef.get<DataSource>(getDataSourceToken(name), { strict: false });
    } catch (cause) {
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

/** As a shell takes it for one word, whatever is in it. */
function shellWord(text: string): string {
  return /^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
