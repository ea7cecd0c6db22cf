import { execFile } from 'node:child_process';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import {
  All,
  Body,
  type CallHandler,
  type CanActivate,
  Controller,
  Delete,
  type DynamicModule,
  type ExecutionContext,
  Get,
  Global,
  Head,
  HttpCode,
  Inject,
  Injectable,
  type INestApplication,
  type LoggerService,
  Module,
  type ModuleMetadata,
  type NestInterceptor,
  type OnApplicationShutdown,
  Options,
  Param,
  Post,
  Scope,
  Sse,
  type Type,
  UploadedFile,
  UseGuards,
  UseInterceptors,
} from '@nestjs/common';
import { APP_GUARD, ContextIdFactory, ModuleRef, NestFactory, REQUEST } from '@nestjs/core';
import { FileInterceptor } from '@nestjs/platform-express';
import { Test } from '@nestjs/testing';
import { getDataSourceToken, InjectDataSource, InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import type { Pool } from 'pg';
import { type Observable, of, tap } from 'rxjs';
import { DataSource, type Repository } from 'typeorm';
import { deferred } from '../../src/deferred.js';
import {
  Idempotent,
  idempotencyMigrationsIn,
  IdempotencyModule,
  type IdempotencyModuleOptions,
  IdempotencyOptionError,
  IdempotencyService,
  type IdempotentOptions,
} from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { createEmptyDatabase, queryOn } from '../support/empty-database.js';
import { openRequest, type RawResponse, rawRequest } from '../support/raw-http.js';
import { waitFor } from '../support/wait-for.js';

const run = promisify(execFile);

let database: TestDatabase;
let undo: (() => Promise<unknown>)[];

beforeEach(async () => {
  database = await createTestDatabase();
  undo = [database.drop];
});

afterEach(async () => {
  for (const step of undo.toReversed()) await step();
});

const typeOrm = (options: object = {}) =>
  TypeOrmModule.forRoot({
    type: 'postgres',
    url: database.url,
    entities: [Effect],
    synchronize: true,
    retryAttempts: 0,
    ...options,
  });

/** What handlers do in the database: a row for each time. */
@Injectable()
class Effects {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  async add(label: string): Promise<{ label: string }> {
    await this.effects.save({ label });
    return { label };
  }

  async labels(): Promise<string[]> {
    return (await this.effects.find({ order: { id: 'ASC' } })).map(({ label }) => label);
  }
}

@Controller('things')
class Things {
  constructor(private readonly effects: Effects) {}

  @Post()
  @Idempotent()
  create(@Body() { label = 'thing', fail = false }: { label?: string; fail?: boolean }) {
    return fail ? this.fail(label) : this.effects.add(label);
  }

  private async fail(label: string): Promise<never> {
    await this.effects.add(label);
    throw new Error('the handler failed');
  }
}

interface Running {
  app: INestApplication;
  port: number;
  post(path: string, key?: string, body?: object): Promise<RawResponse>;
  effects(): Promise<string[]>;
}

interface AppOptions extends Pick<ModuleMetadata, 'imports' | 'controllers' | 'providers'> {
  /** Called before the application is initialised. */
  configure?: (app: INestApplication) => void;
}

/** What was logged at `warn` and above by the last application. */
let logs: string[];

/** An application with the default DataSource, and `Things` unless other controllers are given. */
function boot(idempotency: DynamicModule | undefined, options: AppOptions = {}): Promise<Running> {
  return bootWith({
    ...options,
    imports: [
      typeOrm(),
      TypeOrmModule.forFeature([Effect]),
      ...(idempotency === undefined ? [] : [idempotency]),
      ...(options.imports ?? []),
    ],
    controllers: options.controllers ?? [Things],
    providers: [Effects, ...(options.providers ?? [])],
  });
}

async function bootWith({ configure, ...metadata }: AppOptions): Promise<Running> {
  class AppModule {}
  logs = [];
  const app = await NestFactory.create<INestApplication>(
    { module: AppModule, ...metadata },
    { logger: collectingLogger(logs), abortOnError: false },
  );
  undo.push(() => app.close());
  configure?.(app);
  return listen(app);
}

async function listen(app: INestApplication): Promise<Running> {
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return {
    app,
    port,
    effects: () => app.get(Effects).labels(),
    post: (path, key, body = {}) =>
      rawRequest(port, {
        method: 'POST',
        path,
        headers: [
          ['Content-Type', 'application/json'],
          ...(key === undefined ? [] : [['Idempotency-Key', key] as const]),
        ],
        body: JSON.stringify(body),
      }),
  };
}

function collectingLogger(lines: string[]): LoggerService {
  const collect = (...parts: unknown[]): void => {
    lines.push(parts.map((part) => (part instanceof Error ? (part.stack ?? part.message) : String(part))).join(' '));
  };
  const ignore = (): void => undefined;
  return { log: ignore, debug: ignore, verbose: ignore, warn: collect, error: collect, fatal: collect };
}

/** What the start of an application ended in, which must be an error. */
async function bootError(starting: Promise<Running>): Promise<Error> {
  const error: unknown = await starting.then(
    () => new TypeError('the application started'),
    (thrown: unknown) => thrown,
  );
  return error as Error;
}

interface KeyRow {
  scope: string;
  key: string;
  response_status: number;
  ttl: number;
}

const keyRows = (table = 'idempotency_keys', url = database.url) =>
  queryOn<KeyRow>(
    url,
    `select scope, key, response_status, extract(epoch from expires_at - created_at)::float8 * 1000 as ttl
     from ${table} order by key`,
  );

const REPLAYED = 'Idempotency-Replayed: true';

/** Posts twice with one key, and answers with the bytes of both when they are what they should be. */
async function expectOneExecution(test: Running, path = '/things'): Promise<void> {
  const before = await test.effects();
  const first = await test.post(path, 'abc');
  const second = await test.post(path, 'abc');
  expect(first.status).toBe(201);
  expect(first.headerLines).toContain('Idempotency-Key: abc');
  expect(first.headerLines).not.toContain(REPLAYED);
  expect(second.headerLines).toContain(REPLAYED);
  expect(second.body.equals(first.body)).toBe(true);
  expect(await test.effects()).toEqual([...before, 'thing']);
}

describe('IdempotencyModule.forRoot()', () => {
  it('needs no argument: it takes the default DataSource', async () => {
    const test = await boot(IdempotencyModule.forRoot());
    await expectOneExecution(test);
    expect(await keyRows()).toEqual([
      { scope: '', key: 'abc', response_status: 201, ttl: expect.closeTo(24 * 60 * 60 * 1000, -2) },
    ]);
  });

  it('may be imported before the module of its DataSource', async () => {
    const test = await bootWith({
      imports: [IdempotencyModule.forRoot(), typeOrm(), TypeOrmModule.forFeature([Effect])],
      controllers: [Things],
      providers: [Effects],
    });
    await expectOneExecution(test);
    expect(await keyRows()).toMatchObject([{ key: 'abc' }]);
  });

  it('serves the controllers of every module once it is imported in one', async () => {
    @Controller('others')
    class Others {
      constructor(private readonly effects: Effects) {}

      @Post()
      @Idempotent()
      create() {
        return this.effects.add('other');
      }
    }
    @Module({ imports: [TypeOrmModule.forFeature([Effect])], providers: [Effects], controllers: [Others] })
    class OthersModule {}
    const test = await boot(IdempotencyModule.forRoot(), { imports: [OthersModule] });

    await expectOneExecution(test);
    expect((await test.post('/others', 'abc')).status).toBe(422);
    expect((await test.post('/others', 'def')).status).toBe(201);
  });

  it('does no harm where it is imported twice: each request is still carried out once', async () => {
    const test = await boot(IdempotencyModule.forRoot(), { imports: [IdempotencyModule.forRoot()] });
    expect((await test.post('/things', 'failed', { fail: true })).status).toBe(500);
    expect(await test.effects()).toEqual([]);
    await expectOneExecution(test);
    expect(await keyRows()).toMatchObject([{ key: 'abc' }]);
  });

  it.each([
    ['forRoot()', () => IdempotencyModule.forRoot({ ttlMs: -1 }), "option 'ttlMs' must be a whole number"],
    ['forRoot()', () => IdempotencyModule.forRoot({ ttl: 1 } as object), "there is no option 'ttl'"],
    [
      'forRootAsync()',
      () => IdempotencyModule.forRootAsync({ useFactory: async () => ({ inFlight: 'wait' as never }) }),
      "option 'inFlight' must be 'reject' or { waitMs",
    ],
    [
      'forRootAsync()',
      () => IdempotencyModule.forRootAsync({ useFactory: () => undefined as never }),
      'the options must be an object, not undefined',
    ],
  ])('ends the start of the application on a wrong option of %s', async (_, idempotency, message) => {
    const error = await bootError(bootWith({ imports: [idempotency()] }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toContain(`IdempotencyModule: ${message}`);
  });
});

describe('IdempotencyModule.forRootAsync()', () => {
  const TTL_MS = 123_000;

  @Injectable()
  class Settings {
    readonly ttlMs = TTL_MS;

    createIdempotencyOptions(): IdempotencyModuleOptions {
      return { ttlMs: this.ttlMs };
    }
  }

  @Module({ providers: [Settings], exports: [Settings] })
  class SettingsModule {}

  it.each([
    [
      'useFactory, with what it injects',
      IdempotencyModule.forRootAsync({
        imports: [SettingsModule],
        inject: [Settings],
        useFactory: async (settings: Settings) => ({ ttlMs: settings.ttlMs }),
      }),
    ],
    ['useClass', IdempotencyModule.forRootAsync({ useClass: Settings })],
    ['useExisting', IdempotencyModule.forRootAsync({ imports: [SettingsModule], useExisting: Settings })],
  ])('takes its options from %s', async (_, idempotency) => {
    const test = await boot(idempotency);
    await expectOneExecution(test);
    expect(await keyRows()).toMatchObject([{ key: 'abc', ttl: expect.closeTo(TTL_MS, -2) }]);
  });
});

describe('a module that is not global', () => {
  it.each([
    ['forRoot', IdempotencyModule.forRoot({ isGlobal: false })],
    ['forRootAsync', IdempotencyModule.forRootAsync({ isGlobal: false, useFactory: () => ({}) })],
  ])('serves those modules that import it, all with the same keys: %s', async (_, idempotency) => {
    const feature = (path: string) => {
      @Controller(path)
      class Feature {
        constructor(private readonly effects: Effects) {}

        @Post()
        @Idempotent()
        create() {
          return this.effects.add('thing');
        }
      }
      class FeatureModule {}
      const imports = [TypeOrmModule.forFeature([Effect]), idempotency];
      return { module: FeatureModule, imports, providers: [Effects], controllers: [Feature] };
    };
    const test = await boot(undefined, { imports: [feature('first'), feature('second')], controllers: [] });

    await expectOneExecution(test, '/first');
    expect((await test.post('/second', 'abc')).status).toBe(422);
    expect((await test.post('/second', 'def')).status).toBe(201);
    expect(await keyRows()).toMatchObject([{ key: 'abc' }, { key: 'def' }]);
  });

  it('is missed at boot by a module that does not import it', async () => {
    @Module({ imports: [IdempotencyModule.forRoot({ isGlobal: false })] })
    class ElsewhereModule {}
    const error = await bootError(boot(undefined, { imports: [ElsewhereModule] }));
    expect(error.message).toContain('IdempotencyRuntime');
    expect(error.message).toContain('AppModule');
  });
});

describe('the option `dataSource`', () => {
  @Controller('ledger')
  class Ledger {
    constructor(
      @InjectRepository(Effect, 'ledger') private readonly entries: Repository<Effect>,
      @InjectDataSource() private readonly other: DataSource,
    ) {}

    @Post()
    @Idempotent()
    async create(@Body() { fail }: { fail?: boolean }) {
      const entry = await this.entries.save({ label: 'entry' });
      await this.other.manager.save(Effect, { label: 'elsewhere' });
      if (fail) throw new Error('the handler failed');
      return entry;
    }
  }

  it('names the one whose transactions carry the keys; others go their own way', async () => {
    const ledger = await createTestDatabase();
    undo.push(ledger.drop);
    const test = await bootWith({
      imports: [
        typeOrm(),
        typeOrm({ name: 'ledger', url: ledger.url }),
        TypeOrmModule.forFeature([Effect], 'ledger'),
        IdempotencyModule.forRoot({ dataSource: 'ledger' }),
      ],
      controllers: [Ledger],
    });

    const first = await test.post('/ledger', 'abc');
    expect(first.status).toBe(201);
    expect((await test.post('/ledger', 'abc')).headerLines).toContain(REPLAYED);
    expect(await keyRows()).toEqual([]);
    expect(await keyRows('idempotency_keys', ledger.url)).toMatchObject([{ key: 'abc' }]);

    expect((await test.post('/ledger', 'def', { fail: true })).status).toBe(500);
    const count = 'select count(*)::int as count from effects';
    expect(await queryOn(ledger.url, count)).toEqual([{ count: 1 }]);
    expect(await queryOn(database.url, count)).toEqual([{ count: 2 }]);
  });

  it('ends the start when no DataSource has that name', async () => {
    const error = await bootError(boot(IdempotencyModule.forRoot({ dataSource: 'ledger' })));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toBe(
      "IdempotencyModule: option 'dataSource' names 'ledger', but no DataSource of that name was given to TypeOrmModule.forRoot().",
    );
  });

  it('is what the start asks for when there is no default DataSource', async () => {
    const error = await bootError(bootWith({ imports: [typeOrm({ name: 'ledger' }), IdempotencyModule.forRoot()] }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toBe(
      'IdempotencyModule: there is no default DataSource. Import TypeOrmModule.forRoot(), or name yours by the option `dataSource`.',
    );
  });

  it('must not name one that is not for PostgreSQL', async () => {
    // Of all drivers this one is handed its package, and connects to nothing before it is initialised.
    const elsewhere = new DataSource({
      type: 'expo',
      database: 'phone.db',
      driver: { openDatabaseAsync: () => undefined },
    });
    const error = await bootError(
      bootWith({
        imports: [IdempotencyModule.forRoot({ dataSource: 'phone' })],
        providers: [{ provide: getDataSourceToken('phone'), useValue: elsewhere }],
      }),
    );
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toBe(
      "IdempotencyModule: the DataSource is of type 'expo', but keys are kept in PostgreSQL. Name a DataSource of type 'postgres' by the option `dataSource`.",
    );
  });

  it('lets two modules keep the keys of two DataSources apart', async () => {
    const ledger = await createTestDatabase();
    undo.push(ledger.drop);
    const feature = (path: string, dataSource: string, options: IdempotencyModuleOptions) => {
      @Controller(path)
      class Feature {
        constructor(@InjectRepository(Effect, dataSource) private readonly effects: Repository<Effect>) {}

        @Post()
        @Idempotent()
        async create(@Body() { fail }: { fail?: boolean }) {
          const effect = await this.effects.save({ label: path });
          if (fail) throw new Error('the handler failed');
          return effect;
        }
      }
      class FeatureModule {}
      return {
        module: FeatureModule,
        imports: [
          TypeOrmModule.forFeature([Effect], dataSource),
          IdempotencyModule.forRoot({ ...options, isGlobal: false }),
        ],
        controllers: [Feature],
      };
    };
    const test = await bootWith({
      imports: [
        typeOrm(),
        typeOrm({ name: 'ledger', url: ledger.url }),
        feature('shop', 'default', {}),
        feature('ledger', 'ledger', { dataSource: 'ledger' }),
      ],
    });

    for (const path of ['/shop', '/ledger']) {
      expect((await test.post(path, 'failed', { fail: true })).status).toBe(500);
      expect((await test.post(path, 'abc')).status).toBe(201);
      expect((await test.post(path, 'abc')).headerLines).toContain(REPLAYED);
    }
    for (const { url } of [database, ledger]) {
      expect(await keyRows('idempotency_keys', url)).toMatchObject([{ key: 'abc' }]);
      expect(await queryOn(url, 'select count(*)::int as count from effects')).toEqual([{ count: 1 }]);
    }
  });
});

describe('the table', () => {
  const ROOT = fileURLToPath(new URL('../..', import.meta.url));

  /** The command of the message, run by a shell as a person would paste it; only the program itself is the source's. */
  async function runCommandOf(message: string): Promise<void> {
    const [, args] = /"npx nestjs-idempotency (.+?)" \(with DATABASE_URL/.exec(message) ?? [];
    expect(args).toMatch(/^migration:run/);
    await run('/bin/sh', ['-c', `node --import @swc-node/register/esm-register src/cli/main.ts ${args}`], {
      cwd: ROOT,
      env: { ...process.env, DATABASE_URL: database.url },
    });
  }

  beforeEach(async () => {
    await queryOn(database.url, 'drop table idempotency_keys, idempotency_steps');
  });

  it.each([
    ['', {}, {}, 'idempotencyMigrations`'],
    [' in a schema', {}, { schema: 'infra' }, "idempotencyMigrationsIn('infra')`"],
    [' in an odd one', {}, { schema: `it's "odd" $HOME` }, 'idempotencyMigrationsIn(`it\'s "odd" $HOME`)`'],
    [' in the schema of the DataSource', { schema: 'shop' }, {}, 'idempotencyMigrations`'],
    [' elsewhere than the DataSource', { schema: 'shop' }, { schema: 'infra' }, "idempotencyMigrationsIn('infra')`"],
  ])('that is missing%s ends the start with the command that creates it', async (_, ofTypeOrm, options, migrations) => {
    await queryOn(database.url, 'create schema shop');
    const start = () =>
      bootWith({
        imports: [typeOrm(ofTypeOrm), TypeOrmModule.forFeature([Effect]), IdempotencyModule.forRoot(options)],
        controllers: [Things],
        providers: [Effects],
      });

    const error = await bootError(start());
    expect(error.message).toContain('IdempotencyModule: the table ');
    expect(error.message).toContain(`...${migrations}`);
    await runCommandOf(error.message);
    await expectOneExecution(await start());
  });

  it('goes into the schema of the option, by migrations of the DataSource, and is used there', async () => {
    const empty = await createEmptyDatabase();
    undo.push(empty.drop);
    const test = await bootWith({
      imports: [
        typeOrm({ url: empty.url, migrations: idempotencyMigrationsIn('infra'), migrationsRun: true }),
        TypeOrmModule.forFeature([Effect]),
        IdempotencyModule.forRoot({ schema: 'infra' }),
      ],
      controllers: [Things],
      providers: [Effects],
    });

    await expectOneExecution(test);
    expect(await keyRows('infra.idempotency_keys', empty.url)).toMatchObject([{ key: 'abc', response_status: 201 }]);
    expect(await queryOn(empty.url, `select to_regclass('public.idempotency_keys') as found`)).toEqual([
      { found: null },
    ]);
  });
});

describe('@Idempotent()', () => {
  const refused = (decorate: MethodDecorator, options?: IdempotentOptions) => {
    @Controller('refused')
    class Refused {
      @decorate
      @Idempotent(options)
      handler(): Observable<unknown> {
        return of({});
      }
    }
    return bootError(boot(IdempotencyModule.forRoot(), { controllers: [Refused] }));
  };

  it.each([
    ['@Get()', Get(), /GET is idempotent by definition \(RFC 9110, section 9\.2\.2\).* Remove @Idempotent\(\)\.$/],
    ['@Head()', Head(), /HEAD is idempotent by definition .* Remove @Idempotent\(\)\.$/],
    ['@Options()', Options(), /OPTIONS is idempotent by definition .* Remove @Idempotent\(\)\.$/],
    ['@Sse()', Sse(), /an @Sse\(\) stream has no end that could be recorded\. Remove @Idempotent\(\)\.$/],
    ['@All()', All(), /@All\(\) answers GET, too, .* Name the methods instead, such as @Post\(\)\.$/],
  ])('on %s ends the start with the reason', async (_, decorate, reason) => {
    const error = await refused(decorate);
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toMatch(/^@Idempotent\(\) of Refused\.handler: /);
    expect(error.message).toMatch(reason);
  });

  it('with a wrong option ends the start', async () => {
    const error = await refused(Post(), { ttlMs: 0 });
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toMatch(/^@Idempotent\(\) of Refused\.handler: option 'ttlMs' must be/);
  });

  it.each([
    ['that has a handler for it', Post()],
    ['that has none', Get()],
  ])('with a wrong option ends the start on a class, too, %s', async (_, decorate) => {
    @Controller('refused')
    @Idempotent({ retries: 21 })
    class RefusedClass {
      @decorate
      handler() {}
    }
    const error = await bootError(boot(IdempotencyModule.forRoot(), { controllers: [RefusedClass] }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toMatch(/^@Idempotent\(\) of RefusedClass: option 'retries' must be/);
  });

  it('on a class leaves its handlers for safe methods alone', async () => {
    @Controller('class')
    @Idempotent()
    class WholeClass {
      constructor(private readonly effects: Effects) {}

      @Get()
      read() {
        return this.effects.labels();
      }

      @Head('head')
      head() {}

      @Options('options')
      options() {}

      @Sse('events')
      events() {
        return of({ data: 'one' });
      }

      @Post()
      create() {
        return this.effects.add('thing');
      }

      @Delete()
      remove() {
        return this.effects.add('removed');
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [WholeClass] });

    await expectOneExecution(test, '/class');
    const request = (method: string, path: string) =>
      rawRequest(test.port, { method, path, headers: [['Idempotency-Key', 'def']] });
    const answers = [
      await request('GET', '/class'),
      await request('HEAD', '/class/head'),
      await request('OPTIONS', '/class/options'),
      await request('GET', '/class/events'),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(answers[0]!.body.toString()).toBe('["thing"]');
    expect(answers.flatMap(({ headerLines }) => headerLines).filter((line) => /^idempotency/i.test(line))).toEqual([]);

    expect((await rawRequest(test.port, { method: 'DELETE', path: '/class' })).status).toBe(400);
    expect((await request('DELETE', '/class')).status).toBe(200);
    expect((await request('DELETE', '/class')).headerLines).toContain(REPLAYED);
  });

  it('on a class takes in the handlers it inherits, with all that decorates them, but not those of its sisters', async () => {
    @Injectable()
    abstract class Base {
      constructor(protected readonly effects: Effects) {}

      @Post(':name')
      @HttpCode(202)
      create(@Param('name') name: string, @Body() { label }: { label: string }) {
        return this.effects.add(`${label} of ${name}`);
      }
    }
    @Controller('guarded')
    @Idempotent()
    class Guarded extends Base {}
    @Controller('plain')
    class Plain extends Base {}
    @Controller('heir')
    class Heir extends Guarded {}
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [Guarded, Plain, Heir] });

    for (const path of ['/guarded/a', '/guarded/a', '/heir/b', '/heir/b', '/plain/c', '/plain/c']) {
      const answer = await test.post(path, path, { label: 'thing' });
      expect(answer.status).toBe(202);
      expect(answer.body.toString()).toBe(`{"label":"thing of ${path.at(-1)}"}`);
    }
    expect(await test.effects()).toEqual(['thing of a', 'thing of b', 'thing of c', 'thing of c']);
    expect((await keyRows()).map(({ key }) => key)).toEqual(['/guarded/a', '/heir/b']);
  });

  it('takes only the handlers it decorates: others are not looked at, and no connection is taken for them', async () => {
    @Controller('mixed')
    class Mixed {
      @Post('plain')
      plain() {
        return { plain: true };
      }

      @Post('guarded')
      @Idempotent()
      guarded() {
        return { plain: false };
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [Mixed] });
    const pool = (test.app.get(DataSource).driver as unknown as { master: Pool }).master;
    let taken = 0;
    pool.on('acquire', () => taken++);

    const plain = await test.post('/mixed/plain', 'abc');
    expect(plain.body.toString()).toBe('{"plain":true}');
    expect(plain.headerLines.filter((line) => /^idempotency/i.test(line))).toEqual([]);
    expect((await test.post('/mixed/plain')).status).toBe(201);
    expect(taken).toBe(0);

    expect((await test.post('/mixed/guarded', 'abc')).status).toBe(201);
    expect(taken).toBe(1);
  });
});

describe('the warning of a shared scope', () => {
  @Injectable()
  class Guard implements CanActivate {
    canActivate(): boolean {
      return true;
    }
  }

  @Injectable({ scope: Scope.REQUEST })
  class RequestGuard extends Guard {
    constructor(@Inject(REQUEST) readonly request: unknown) {
      super();
    }
  }

  const nothing = () => undefined;

  const controllerWith = ({
    onClass = nothing,
    onMethod = nothing,
    options,
  }: { onClass?: ClassDecorator; onMethod?: MethodDecorator; options?: IdempotentOptions } = {}) => {
    @Controller('scoped')
    @onClass
    class Scoped {
      @Post('first')
      @Idempotent(options)
      @onMethod
      first() {}

      @Post('second')
      @Idempotent(options)
      @onMethod
      second() {}

      @Post('plain')
      plain() {}
    }
    return Scoped;
  };

  const warnings = () => logs.filter((line) => line.includes('scope'));

  it('comes once at boot, with all the routes, where no guard and no option tells callers apart', async () => {
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [controllerWith(), Things] });
    expect(warnings()).toEqual([
      'No guard can tell who calls Scoped.first, Scoped.second, Things.create: all callers share one scope of idempotency keys. ' +
        "Set the option `scope`, or say that this is meant by scope: () => ''. Idempotency",
    ]);
    await test.post('/scoped/first', 'abc');
    expect(logs).toHaveLength(1);
  });

  it.each<[string, IdempotencyModuleOptions, Type, AppOptions]>([
    ['the module has a scope', { scope: () => '' }, controllerWith(), {}],
    ['the route has a scope', {}, controllerWith({ options: { scope: () => '' } }), {}],
    ['a guard is on the route', {}, controllerWith({ onMethod: UseGuards(Guard) }), {}],
    ['a guard is on the class', {}, controllerWith({ onClass: UseGuards(Guard) }), {}],
    [
      'useGlobalGuards() was called',
      {},
      controllerWith(),
      { configure: (app: INestApplication) => void app.useGlobalGuards(new Guard()) },
    ],
    ['there is an APP_GUARD', {}, controllerWith(), { providers: [{ provide: APP_GUARD, useClass: Guard }] }],
    [
      'there is an APP_GUARD for each request',
      {},
      controllerWith(),
      { providers: [{ provide: APP_GUARD, scope: Scope.REQUEST, useClass: RequestGuard }] },
    ],
  ])('does not come at boot when %s', async (_, options, controller, appOptions) => {
    await boot(IdempotencyModule.forRoot(options), { ...appOptions, controllers: [controller] });
    expect(logs).toEqual([]);
  });

  it('names only the routes it is about', async () => {
    await boot(IdempotencyModule.forRoot(), { controllers: [controllerWith({ onClass: UseGuards(Guard) }), Things] });
    expect(warnings()).toEqual([expect.stringContaining('who calls Things.create: all')]);
  });
});

describe('the interceptor', () => {
  const around = (name: string, seen: string[]): NestInterceptor => ({
    intercept: (_: ExecutionContext, next: CallHandler) => {
      seen.push(name);
      return next.handle().pipe(tap(() => seen.push(`${name} done`)));
    },
  });

  it('runs inside of all others, so that a replay leaves out nothing but the handler', async () => {
    const seen: string[] = [];

    @Controller('around')
    @UseInterceptors(around('class', seen))
    class Around {
      @Post()
      @Idempotent()
      @UseInterceptors(around('method', seen))
      handler() {
        seen.push('handler');
        return {};
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), {
      controllers: [Around],
      configure: (app) => void app.useGlobalInterceptors(around('global', seen)),
    });
    const outside = ['global', 'class', 'method'];
    const done = ['method done', 'class done', 'global done'];

    await test.post('/around', 'abc');
    expect(seen.splice(0)).toEqual([...outside, 'handler', ...done]);
    await test.post('/around', 'abc');
    expect(seen).toEqual([...outside, ...done]);
  });

  const BOUNDARY = 'xyz';
  const upload = (test: Running, path: string, content: string) =>
    rawRequest(test.port, {
      method: 'POST',
      path,
      headers: [
        ['Idempotency-Key', 'abc'],
        ['Content-Type', `multipart/form-data; boundary=${BOUNDARY}`],
      ],
      body: `--${BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n${content}\r\n--${BOUNDARY}--\r\n`,
    });

  @Controller('uploads')
  class Uploads {
    @Post('below')
    @Idempotent()
    @UseInterceptors(FileInterceptor('file'))
    below(@UploadedFile() file: { size: number }) {
      return { size: file.size };
    }

    @Post('above')
    @UseInterceptors(FileInterceptor('file'))
    @Idempotent()
    above() {
      return {};
    }
  }

  it('finds an upload that an interceptor below has read, and compares its content', async () => {
    const test = await boot(IdempotencyModule.forRoot({ scope: () => '' }), { controllers: [Uploads] });
    expect((await upload(test, '/uploads/below', 'hello')).body.toString()).toBe('{"size":5}');
    expect((await upload(test, '/uploads/below', 'hello')).headerLines).toContain(REPLAYED);
    expect((await upload(test, '/uploads/below', 'hallo')).status).toBe(422);
    expect(logs).toEqual([]);
  });

  it('says which decorator to move when the upload is still unread', async () => {
    const test = await boot(IdempotencyModule.forRoot({ scope: () => '' }), { controllers: [Uploads] });
    expect((await upload(test, '/uploads/above', 'hello')).status).toBe(500);
    expect(logs).toEqual([expect.stringContaining('Move @UseInterceptors(FileInterceptor(...)) below @Idempotent()')]);
    expect(await keyRows()).toEqual([]);
  });
});

describe('IdempotencyService', () => {
  it('finds a recorded key in its scope, and none that is unknown, expired or still running', async () => {
    const { promise, resolve } = deferred();
    const entered = deferred();

    @Controller('slow')
    class Slow {
      @Post()
      @Idempotent()
      async create() {
        entered.resolve();
        await promise;
        return 'done';
      }
    }
    const test = await boot(IdempotencyModule.forRoot({ ttlMs: 60_000, scope: () => 'alice' }), {
      controllers: [Things, Slow],
    });
    const service = test.app.get(IdempotencyService);
    await test.post('/things?a=1', 'abc');

    const found = await service.find('abc', 'alice');
    expect(found).toEqual({
      scope: 'alice',
      key: 'abc',
      state: 'completed',
      method: 'POST',
      path: '/things',
      status: 201,
      bodyBytes: '{"label":"thing"}'.length,
      bodyKept: true,
      createdAt: expect.any(Date),
      expiresAt: expect.any(Date),
    });
    expect(found!.expiresAt!.getTime() - found!.createdAt.getTime()).toBeCloseTo(60_000, -2);
    expect(await service.find('abc')).toBeUndefined();
    expect(await service.find('def', 'alice')).toBeUndefined();

    const running = test.post('/slow', 'slow');
    await entered.promise;
    expect(await service.find('slow', 'alice')).toBeUndefined();
    resolve();
    await running;
    expect(await service.find('slow', 'alice')).toMatchObject({ key: 'slow', status: 201 });

    const backDate = `created_at = created_at - interval '2 min', expires_at = expires_at - interval '2 min'`;
    await queryOn(database.url, `update idempotency_keys set ${backDate} where key = 'abc'`);
    expect(await service.find('abc', 'alice')).toBeUndefined();
  });

  it('forgets a key, so that its next request runs again', async () => {
    const test = await boot(IdempotencyModule.forRoot());
    const service = test.app.get(IdempotencyService);
    await expectOneExecution(test);

    expect(await service.forget('abc', 'somebody else')).toBe(false);
    expect(await service.forget('abc')).toBe(true);
    expect(await service.forget('abc')).toBe(false);
    await expectOneExecution(test);
  });

  it('purges what has expired', async () => {
    const test = await boot(IdempotencyModule.forRoot());
    await test.post('/things', 'abc');
    await test.post('/things', 'def');
    const backDate = `created_at = created_at - interval '2 days', expires_at = expires_at - interval '2 days'`;
    await queryOn(database.url, `update idempotency_keys set ${backDate} where key = 'abc'`);

    expect(await test.app.get(IdempotencyService).purge()).toBe(1);
    expect(await keyRows()).toMatchObject([{ key: 'def' }]);
  });

  it('lets a write outside of the transaction survive its rollback', async () => {
    @Controller('audited')
    class Audited {
      constructor(
        private readonly effects: Effects,
        private readonly idempotency: IdempotencyService,
      ) {}

      @Post()
      @Idempotent()
      async create() {
        await this.effects.add('inside');
        const { label } = await this.idempotency.outsideTransaction(() => this.effects.add('outside'));
        await this.effects.add(`inside, after ${label}`);
        throw new Error('the handler failed');
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [Audited] });
    expect((await test.post('/audited', 'abc')).status).toBe(500);
    expect(await test.effects()).toEqual(['outside']);
  });

  it('says what to call when it is used before the application was initialised', async () => {
    const builder = Test.createTestingModule({ imports: [typeOrm(), IdempotencyModule.forRoot()] });
    const module = await builder.setLogger(collectingLogger((logs = []))).compile();
    undo.push(() => module.close());

    expect(() => module.get(IdempotencyService).find('abc')).toThrow('call app.init() first');
    await module.init();
    await expect(module.get(IdempotencyService).find('abc')).resolves.toBeUndefined();
  });
});

describe('request-scoped providers', () => {
  @Injectable({ scope: Scope.REQUEST })
  class PerRequest {
    constructor(
      @Inject(REQUEST) private readonly request: { headers: Record<string, string> },
      private readonly effects: Effects,
    ) {}

    add() {
      return this.effects.add(`for ${this.request.headers['idempotency-key']}`);
    }
  }

  @Injectable({ scope: Scope.REQUEST, durable: true })
  class PerTenant {
    constructor(private readonly effects: Effects) {}

    add() {
      return this.effects.add('durable');
    }
  }

  @Controller({ path: 'scoped', scope: Scope.REQUEST })
  class PerRequestController {
    static made = 0;

    constructor(
      private readonly perRequest: PerRequest,
      private readonly perTenant: PerTenant,
      private readonly moduleRef: ModuleRef,
      @Inject(REQUEST) private readonly request: object,
    ) {
      PerRequestController.made++;
    }

    @Post()
    @Idempotent()
    async create(@Body() { fail = false }: { fail?: boolean }) {
      const added = await this.perRequest.add();
      await this.perTenant.add();
      const contextId = ContextIdFactory.getByRequest(this.request);
      await (await this.moduleRef.resolve(PerRequest, contextId, { strict: false })).add();
      if (fail) throw new Error('the handler failed');
      return added;
    }
  }

  it('work in the transaction of their request', async () => {
    const test = await boot(IdempotencyModule.forRoot(), {
      controllers: [PerRequestController],
      providers: [PerRequest, PerTenant],
    });
    expect((await test.post('/scoped', 'failed', { fail: true })).status).toBe(500);
    expect(await test.effects()).toEqual([]);

    const first = await test.post('/scoped', 'abc');
    const second = await test.post('/scoped', 'abc');
    expect(first.body.toString()).toBe('{"label":"for abc"}');
    expect(second.body.equals(first.body)).toBe(true);
    expect(second.headerLines).toContain(REPLAYED);
    expect(await test.effects()).toEqual(['for abc', 'durable', 'for abc']);
    expect(PerRequestController.made).toBe(3);
  });
});

describe('an application under test', () => {
  it('is made by Test.createTestingModule() like any other, with providers replaced', async () => {
    const module = await Test.createTestingModule({
      imports: [typeOrm(), TypeOrmModule.forFeature([Effect]), IdempotencyModule.forRoot()],
      controllers: [Things],
      providers: [Effects],
    })
      .overrideProvider(Effects)
      .useFactory({
        factory: (dataSource: DataSource) => ({
          add: (label: string) => dataSource.manager.save(Effect, { label }),
          labels: async () => (await dataSource.manager.find(Effect)).map(({ label }) => label),
        }),
        inject: [DataSource],
      })
      .setLogger(collectingLogger((logs = [])))
      .compile();
    const app = module.createNestApplication();
    undo.push(() => app.close());

    await expectOneExecution(await listen(app));
    expect(await keyRows()).toMatchObject([{ key: 'abc' }]);
  });
});

describe('an application that is closed', () => {
  /** A handler that says when it runs, and waits until it may end. */
  function slowController() {
    const entered = deferred();
    const mayEnd = deferred();

    @Controller('slow')
    class Slow {
      constructor(private readonly effects: Effects) {}

      @Post()
      @Idempotent()
      async create() {
        entered.resolve();
        await mayEnd.promise;
        return this.effects.add('slow');
      }
    }
    return { Slow, entered: entered.promise, end: () => mayEnd.resolve() };
  }

  const connections = async () => {
    const [row] = await queryOn<{ count: number }>(
      process.env['TEST_DATABASE_URL']!,
      'select count(*)::int as count from pg_stat_activity where datname = $1',
      [database.name],
    );
    return row!.count;
  };

  const resources = () => process.getActiveResourcesInfo().toSorted().join();

  it('lets a request in flight finish, records it, and leaves no connection, timer or socket behind', async () => {
    const before = resources();
    const { Slow, entered, end } = slowController();
    const test = await boot(IdempotencyModule.forRoot({ scope: () => '' }), {
      controllers: [Slow],
      configure: (app) => void app.enableShutdownHooks(),
    });

    const { response } = await openRequest(test.port, {
      method: 'POST',
      path: '/slow',
      headers: [['Idempotency-Key', 'abc']],
    });
    await entered;
    expect(await connections()).toBeGreaterThan(0);
    const closed = test.app.close();
    await waitFor(() => !test.app.getHttpServer().listening, { what: 'the server to stop listening' });
    end();

    const { status, body } = await response;
    expect({ status, body: body.toString() }).toEqual({ status: 201, body: '{"label":"slow"}' });
    await closed;
    expect(await keyRows()).toMatchObject([{ key: 'abc', response_status: 201 }]);
    expect(await queryOn(database.url, 'select label from effects')).toEqual([{ label: 'slow' }]);
    await waitFor(async () => (await connections()) === 0, { what: 'the connections to be closed' });
    await waitFor(() => resources() === before, { what: `only ${before} to be active, not ${resources()}` });
    expect(logs).toEqual([]);
  });

  it.each([
    ['succeeds', false, ['early', 'late'], ['abc']],
    ['fails', true, [], []],
  ])(
    'keeps a request whose client has gone in its transaction to the end, one that %s',
    async (_, fails, written, recorded) => {
      const entered = deferred();
      const mayEnd = deferred();
      const ended = deferred();

      @Controller('slow')
      class Slow {
        constructor(private readonly effects: Effects) {}

        @Post()
        @Idempotent()
        async create() {
          await this.effects.add('early');
          entered.resolve();
          await mayEnd.promise;
          await this.effects.add('late').finally(() => ended.resolve());
          if (fails) throw new Error('the handler failed');
        }
      }

      /** Shut down between this library and the DataSource, and slow enough for whatever still runs. */
      @Injectable()
      class Flusher implements OnApplicationShutdown {
        async onApplicationShutdown(): Promise<void> {
          await ended.promise;
        }
      }

      @Global()
      @Module({ providers: [Flusher] })
      class FlusherModule {}

      @Module({
        imports: [typeOrm(), TypeOrmModule.forFeature([Effect]), FlusherModule, IdempotencyModule.forRoot()],
        controllers: [Slow],
        providers: [Effects],
      })
      class RootModule {}
      const test = await bootWith({ imports: [RootModule] });

      const request = await openRequest(test.port, {
        method: 'POST',
        path: '/slow',
        headers: [['Idempotency-Key', 'abc']],
      });
      await entered.promise;
      request.destroy();
      // The handler goes on only when the server is closed and the hooks of the shutdown are under way.
      test.app.getHttpServer().once('close', () => setImmediate(() => mayEnd.resolve()));
      await test.app.close();

      const labels = await queryOn<{ label: string }>(database.url, 'select label from effects order by id');
      expect(labels.map(({ label }) => label)).toEqual(written);
      expect((await keyRows()).map(({ key }) => key)).toEqual(recorded);
    },
  );

  it('can be followed by another one over the same options, which replays what the first recorded', async () => {
    const options = { scope: () => '' };
    const first = await boot(IdempotencyModule.forRoot(options));
    const recorded = await first.post('/things', 'abc');
    await first.app.close();

    const second = await boot(IdempotencyModule.forRoot(options));
    const replayed = await second.post('/things', 'abc');
    expect(replayed.headerLines).toContain(REPLAYED);
    expect(replayed.body.equals(recorded.body)).toBe(true);
    expect(await second.effects()).toEqual(['thing']);
  });

  it('gives a DataSource that outlives it its own methods back', async () => {
    const dataSource = await new DataSource({
      type: 'postgres',
      url: database.url,
      entities: [Effect],
      synchronize: true,
    }).initialize();
    undo.push(async () => dataSource.isInitialized && dataSource.destroy());
    const isItsOwn = () => dataSource.createQueryRunner === DataSource.prototype.createQueryRunner;
    const imports = [
      {
        module: class Shared {},
        global: true,
        providers: [{ provide: DataSource, useValue: dataSource }],
        exports: [DataSource],
      },
      TypeOrmModule.forFeature([Effect]),
      IdempotencyModule.forRoot(),
    ];

    for (const key of ['first', 'second']) {
      const test = await bootWith({ imports, controllers: [Things], providers: [Effects] });
      expect(isItsOwn()).toBe(false);
      expect((await test.post('/things', `${key} failed`, { fail: true })).status).toBe(500);
      expect((await test.post('/things', key, { label: key })).status).toBe(201);
      expect((await test.post('/things', key, { label: key })).headerLines).toContain(REPLAYED);
      await test.app.close();
      expect(isItsOwn()).toBe(true);
    }
    expect((await dataSource.manager.find(Effect)).map(({ label }) => label)).toEqual(['first', 'second']);
  });
});
