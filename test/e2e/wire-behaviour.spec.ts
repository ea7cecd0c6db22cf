import { once } from 'node:events';
import http2 from 'node:http2';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { inspect } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type ArgumentsHost,
  Body,
  type CanActivate,
  Catch,
  Controller,
  Delete,
  type ExceptionFilter,
  type ExecutionContext,
  Get,
  HttpCode,
  Injectable,
  Logger,
  Patch,
  Post,
  Put,
  StreamableFile,
  UseFilters,
  UseGuards,
} from '@nestjs/common';
import { HttpAdapterHost, NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { InjectDataSource, InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import { deferred } from '../../src/deferred.js';
import {
  Idempotent,
  IdempotencyContext,
  IdempotencyException,
  IdempotencyModule,
  IdempotencyService,
} from '../../src/index.js';
import { createTestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { type RawRequest, type RawResponse, withoutVolatile } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp, type TestAppOptions } from '../support/test-app.js';

/** Told apart from everything else by looks: it must turn up in the echo, and nowhere else. */
const SECRET = 'k3y-that-nobody-may-read';

interface AnyRequest {
  headers: Record<string, string | undefined>;
  body: { label: string; event?: { id?: unknown } };
  user?: unknown;
}

const requestOf = (context: ExecutionContext): AnyRequest => context.switchToHttp().getRequest<AnyRequest>();

/** Puts the user of the header X-User onto the request, unless his token was revoked. */
@Injectable()
class Authentication implements CanActivate {
  static readonly revoked = new Set<string>();

  canActivate(context: ExecutionContext): boolean {
    const request = requestOf(context);
    const user = request.headers['x-user'];
    request.user = user === undefined ? undefined : JSON.parse(user, (_, value) => (value === 'NaN' ? NaN : value));
    return user === undefined || !Authentication.revoked.has(user);
  }
}

@Catch(IdempotencyException)
class HouseStyle implements ExceptionFilter {
  constructor(private readonly host: HttpAdapterHost) {}

  catch(exception: IdempotencyException, host: ArgumentsHost): void {
    const response = host.switchToHttp().getResponse<object>();
    const adapter = this.host.httpAdapter;
    adapter.setHeader(response, 'Content-Type', 'application/vnd.house+json');
    adapter.reply(response, { code: exception.getResponse().type, retry: exception.retryAfterSeconds }, 418);
  }
}

/** Where a test holds the work, by label, and whether the work fails. */
@Injectable()
class Cues {
  readonly started = new Map<string, () => void>();
  readonly goOn = new Map<string, Promise<void>>();
  fails = false;
}

/** Counts its runs in the database, under the label of the request, and answers with what tells one run from another. */
@Injectable()
class Work {
  constructor(
    private readonly cues: Cues,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  async do(label: string) {
    const { id } = await this.effects.save({ label });
    this.cues.started.get(label)?.();
    await this.cues.goOn.get(label);
    if (this.cues.fails) {
      throw new Error(`kaput: ${label}`);
    }
    return { id, label };
  }

  async swallow(label: string) {
    await this.effects.save({ label });
    await this.dataSource.query('select 1 / 0').catch(() => undefined);
  }
}

@Controller()
class Orders {
  constructor(private readonly work: Work) {}

  @Post(['orders', 'orders/:id', 'elsewhere'])
  @Idempotent()
  create(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Put('orders')
  @Idempotent()
  put(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Patch('orders')
  @Idempotent()
  patch(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Delete('orders')
  @Idempotent()
  remove(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('swallowing')
  @Idempotent()
  swallow(@Body() body: AnyRequest['body']) {
    return this.work.swallow(body.label);
  }

  @Post('endless')
  @Idempotent({ timeoutMs: 50 })
  endless() {
    return new Promise(() => undefined);
  }

  @Post('styled')
  @UseFilters(HouseStyle)
  @Idempotent()
  styled(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('optional')
  @Idempotent({ required: false })
  async optional(@Body() body: AnyRequest['body'], @IdempotencyContext() context?: IdempotencyContext) {
    return { ...(await this.work.do(body.label)), key: context?.key ?? null };
  }

  @Post('renamed')
  @Idempotent({ header: 'X-Request-ID' })
  renamed(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('from-body')
  @Idempotent({ key: (context) => requestOf(context).body.event?.id as string })
  fromBody(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('from-body-optional')
  @Idempotent({ key: (context) => requestOf(context).body.event?.id as string, required: false })
  fromBodyOptional(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  /** Deliveries of one event differ in time and signature. */
  @Post('webhook')
  @Idempotent({
    key: (context) => Promise.resolve(requestOf(context).headers['webhook-id']),
    fingerprint: (context) => requestOf(context).body.label,
  })
  webhook(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('patterned')
  @Idempotent({ keyPattern: /order|order_[a-z]+/ })
  patterned(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('by-fingerprint')
  @Idempotent({ fingerprint: (context) => requestOf(context).body.label })
  byFingerprint(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('without-fingerprint')
  @Idempotent({ fingerprint: () => undefined })
  withoutFingerprint(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('big-json')
  @Idempotent({ maxBodyBytes: 1000 })
  async bigJson(@Body() body: AnyRequest['body']) {
    await this.work.do(body.label);
    return { big: 'x'.repeat(5000) };
  }

  @Post('big-stream')
  @HttpCode(202)
  @Idempotent({ maxBodyBytes: 1000 })
  async bigStream(@Body() body: AnyRequest['body']) {
    await this.work.do(body.label);
    return new StreamableFile(Readable.from(BIG_STREAM.map((piece) => Buffer.from(piece))));
  }

  @Post('just-not-big')
  @Idempotent({ maxBodyBytes: 1000 })
  async justNotBig(@Body() body: AnyRequest['body']) {
    await this.work.do(body.label);
    return 'x'.repeat(1000);
  }
}

const BIG_STREAM = Array.from({ length: 500 }, (_, index) => `${index}: ${'y'.repeat(1000)}\n`);

@Controller('users')
@UseGuards(Authentication)
class Users {
  constructor(private readonly work: Work) {}

  @Post('default')
  @Idempotent()
  byDefault(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('resolved')
  @Idempotent({ scope: async (context) => (requestOf(context).user as { tenant: string }).tenant })
  byTenant(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }
}

@Injectable()
class Base {
  constructor(readonly work: Work) {}

  @Post('inherited')
  inherited(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('overridden')
  overridden(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }
}

/** The same handlers as its sibling, none of them idempotent. */
@Controller('plain')
class Plain extends Base {}

@Idempotent({ header: 'X-Class-Key', ttlMs: 7 * 86_400_000 })
@Controller('whole')
class Whole extends Base {
  @Get('read')
  read() {
    return { read: true };
  }

  @Post('own')
  own(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('method')
  @Idempotent({ header: 'X-Method-Key' })
  method(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('overridden')
  override overridden(@Body() body: AnyRequest['body']) {
    return super.overridden({ label: body.label });
  }
}

@Controller('module')
class OfModule {
  constructor(private readonly work: Work) {}

  @Post('own')
  @Idempotent()
  own(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }
}

interface Problem {
  status: number;
  slug: string;
  title: string;
  retryAfter?: string;
  [extension: string]: unknown;
}

const PROBLEMS = {
  missing: { status: 400, slug: 'key-missing', title: 'Idempotency-Key is missing' },
  malformed: { status: 400, slug: 'key-malformed', title: 'Idempotency-Key is malformed' },
  reused: { status: 422, slug: 'key-reused', title: 'Idempotency-Key is already used' },
  inFlight: {
    status: 409,
    slug: 'request-in-flight',
    title: 'A request is outstanding for this Idempotency-Key',
    retryAfter: '1',
  },
  notKept: { status: 409, slug: 'response-not-kept', title: 'The response to this Idempotency-Key was not kept' },
  unavailable: {
    status: 503,
    slug: 'store-unavailable',
    title: 'The idempotency store is unavailable',
    retryAfter: '2',
  },
  timedOut: { status: 503, slug: 'timed-out', title: 'The operation took too long', retryAfter: '2' },
  failed: { status: 500, slug: 'transaction-failed', title: 'The operation failed' },
} satisfies Record<string, Problem>;

/** All values of a header, one for each line. */
function lines({ headerLines }: RawResponse, name: string): string[] {
  const start = `${name.toLowerCase()}: `;
  return headerLines.filter((line) => line.toLowerCase().startsWith(start)).map((line) => line.slice(start.length));
}

function json(response: RawResponse): Record<string, unknown> {
  return JSON.parse(response.body.toString()) as Record<string, unknown>;
}

/** What a response tells of a problem, in all the places where it does. */
function problemIn(response: RawResponse) {
  return {
    ...json(response),
    onStatusLine: response.status,
    contentType: lines(response, 'Content-Type'),
    link: lines(response, 'Link'),
    retryAfter: lines(response, 'Retry-After'),
    replayed: lines(response, 'Idempotency-Replayed'),
  };
}

function problem({ status, slug, title, retryAfter, ...extensions }: Problem, baseUrl = 'urn:nestjs-idempotency:') {
  const type = baseUrl + slug;
  return {
    type,
    title,
    status,
    detail: expect.stringMatching(/^[A-Z].{20,}\.$/),
    ...extensions,
    onStatusLine: status,
    contentType: ['application/problem+json; charset=utf-8'],
    link: [`<${type}>; rel="describedby"`],
    retryAfter: retryAfter === undefined ? [] : [retryAfter],
    replayed: [],
  };
}

function replayOf({ statusLine, body }: RawResponse) {
  return expect.objectContaining({
    statusLine,
    body,
    headerLines: expect.arrayContaining(['Idempotency-Replayed: true']),
  });
}

/** Everything that is logged from now on, with all that an error carries. */
function collectLogs(): string[] {
  const logged: string[] = [];
  const collect = (...parts: unknown[]): void => void logged.push(inspect(parts, { depth: 10 }));
  Logger.overrideLogger({ log: collect, warn: collect, error: collect, debug: collect, verbose: collect });
  return logged;
}

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  let test: TestApp;
  let cues: Cues;
  const opened: TestApp[] = [];

  async function start(options: Partial<TestAppOptions> = {}): Promise<TestApp> {
    const started = await createTestApp({
      adapter,
      controllers: [Orders, Users, Plain, Whole, OfModule],
      shared: [Cues],
      providers: [Work],
      ...options,
    });
    opened.unshift(started);
    return started;
  }

  beforeAll(async () => {
    test = await start({ idempotency: { scope: undefined } });
    cues = test.app.get(Cues);
  });

  afterEach(() => {
    cues.fails = false;
    Authentication.revoked.clear();
  });

  afterAll(async () => {
    for (const app of opened) {
      await app.close();
    }
  });

  /** A request with the key's own label in its body. */
  function send(path: string, key: string | undefined, given: Partial<RawRequest> = {}, app = test) {
    const { headers = [], ...others } = given;
    const label = (key ?? 'none').replaceAll(/["\\]|;.*/g, '');
    return app.request({
      method: 'POST',
      path,
      body: JSON.stringify({ label }),
      ...others,
      headers: [
        ...(key === undefined ? [] : [['Idempotency-Key', key] as const]),
        ...(headers.some(([name]) => name === 'Content-Type') ? [] : [['Content-Type', 'application/json'] as const]),
        ...headers,
      ],
    });
  }

  const runs = async (label: string, app = test) => (await app.effects()).filter((effect) => effect === label).length;

  const rowOf = async (key: string) =>
    (
      (await test.dataSource.query('select * from idempotency_keys where key = $1', [key])) as Record<string, unknown>[]
    )[0];

  /** Starts a request and resolves once its handler has written. */
  async function sendAndHold(label: string): Promise<{ response: Promise<RawResponse>; goOn: () => void }> {
    const [started, goOn] = [deferred(), deferred()];
    cues.started.set(label, started.resolve);
    cues.goOn.set(label, goOn.promise);
    const response = send('/orders', label);
    await started.promise;
    return { response, goOn: goOn.resolve };
  }

  describe('a key', () => {
    it('is demanded by default', async () => {
      const response = await send('/orders', undefined);
      expect(problemIn(response)).toEqual(problem(PROBLEMS.missing));
      expect(json(response)['detail']).toContain('the header Idempotency-Key');
      expect(lines(response, 'Idempotency-Key')).toEqual([]);
      expect(await runs('none')).toBe(0);
    });

    it.each<[string, (readonly [string, string])[]]>([
      ['empty', [['Idempotency-Key', '']]],
      ['an empty string in quotes', [['Idempotency-Key', '""']]],
      ['256 characters long', [['Idempotency-Key', 'x'.repeat(256)]]],
      ['256 characters long in quotes', [['Idempotency-Key', `"${'x'.repeat(256)}"`]]],
      ['not printable', [['Idempotency-Key', 'a\tb']]],
      ['not ASCII', [['Idempotency-Key', 'cl\u00e9']]],
      ['a quote that does not end', [['Idempotency-Key', '"abc']]],
      ['a string with something behind it', [['Idempotency-Key', '"abc"def']]],
      ['a string with an unknown escape', [['Idempotency-Key', String.raw`"a\bc"`]]],
      ['a list of strings', [['Idempotency-Key', '"a", "b"']]],
      // prettier-ignore
      ['sent in two lines', [['Idempotency-Key', 'abc'], ['Idempotency-Key', 'abc']]],
      // prettier-ignore
      ['sent in two lines that differ in case', [['Idempotency-Key', 'abc'], ['idempotency-KEY', 'abc']]],
    ])('is refused when it is %s', async (_, headers) => {
      const response = await send('/orders', undefined, { headers });
      expect(problemIn(response)).toEqual(problem(PROBLEMS.malformed));
      expect(lines(response, 'Idempotency-Key')).toEqual([]);
      expect(await runs('none')).toBe(0);
    });

    it.each([
      ['255 characters', 'y'.repeat(255), 'y'.repeat(255)],
      ['255 characters with escapes', `"${String.raw`\"`.repeat(255)}"`, '"'.repeat(255)],
      ['a list to look at', 'a, b;c=d', 'a, b;c=d'],
    ])('may be %s', async (_, sent, key) => {
      const first = await send('/orders', sent);
      expect(first.status).toBe(201);
      expect(await send('/orders', sent)).toEqual(replayOf(first));
      expect(await rowOf(key)).toBeDefined();
    });

    it('is the same in quotes and bare, whatever its parameters, and echoed as it was sent', async () => {
      const first = await send('/orders', '"same-key"');
      expect(lines(first, 'Idempotency-Key')).toEqual(['"same-key"']);
      for (const spelling of ['same-key', '"same-key";expires=60']) {
        const replay = await send('/orders', spelling);
        expect(replay).toEqual(replayOf(first));
        expect(lines(replay, 'Idempotency-Key')).toEqual([spelling]);
      }
      expect(await runs('same-key')).toBe(1);
    });

    it('is read from the header in whatever case it is written', async () => {
      const body = '{"label":"odd-case"}';
      const first = await send('/orders', undefined, { headers: [['iDEMPOTENCY-kEY', 'odd-case']], body });
      expect(await send('/orders', 'odd-case', { body })).toEqual(replayOf(first));
    });

    it('may be left out where the route says so, and then protects nothing', async () => {
      const [one, other] = [await send('/optional', undefined), await send('/optional', undefined)];
      expect([one.status, other.status]).toEqual([201, 201]);
      expect(json(one)['key']).toBeNull();
      expect(json(one)['id']).not.toBe(json(other)['id']);
      expect(lines(one, 'Idempotency-Key')).toEqual([]);

      const first = await send('/optional', 'not-left-out');
      expect(json(first)['key']).toBe('not-left-out');
      expect(await send('/optional', 'not-left-out')).toEqual(replayOf(first));
      expect(problemIn(await send('/optional', '', {}))).toEqual(problem(PROBLEMS.malformed));
    });

    it('may come in another header', async () => {
      const headers = [['X-Request-ID', 'renamed-1']] as const;
      const first = await send('/renamed', undefined, { headers });
      expect(lines(first, 'X-Request-ID')).toEqual(['renamed-1']);
      expect(await send('/renamed', undefined, { headers })).toEqual(replayOf(first));

      const missing = await send('/renamed', 'in-the-usual-header');
      expect(problemIn(missing)).toEqual(problem(PROBLEMS.missing));
      expect(json(missing)['detail']).toContain('the header X-Request-ID');
    });

    it('may come from the body', async () => {
      const body = '{"label":"from-body","event":{"id":"evt_1"}}';
      const first = await send('/from-body', 'this header is not looked at', { body });
      expect(lines(first, 'Idempotency-Key')).toEqual([]);
      expect(await send('/from-body', undefined, { body })).toEqual(replayOf(first));
      expect(await rowOf('evt_1')).toBeDefined();

      for (const id of ['null', '""']) {
        const none = { body: `{"label":"from-body","event":{"id":${id}}}` };
        expect(problemIn(await send('/from-body', 'header', none))).toEqual(problem(PROBLEMS.missing));
        expect((await send('/from-body-optional', 'header', none)).status).toBe(201);
      }
      for (const id of ['17', '{"a":1}', '["a"]', 'true', '"cl\u00e9"']) {
        const odd = { body: `{"label":"from-body","event":{"id":${id}}}` };
        expect(problemIn(await send('/from-body', 'header', odd))).toEqual(problem(PROBLEMS.malformed));
      }
      expect(await runs('from-body')).toBe(3);
    });

    it("may be a webhook's event id, with a fingerprint that its deliveries have in common", async () => {
      const deliver = (id: string, sentAt: string) =>
        send('/webhook', undefined, {
          headers: [['webhook-id', id]],
          body: JSON.stringify({ label: 'webhook', sentAt }),
        });
      const first = await deliver('msg_1', '12:00');
      expect(await deliver('msg_1', '12:05')).toEqual(replayOf(first));
      expect((await deliver('msg_2', '12:06')).status).toBe(201);
      expect(await runs('webhook')).toBe(2);
    });

    it('must have the form that the route asks for, all of it', async () => {
      expect((await send('/patterned', 'order_abc')).status).toBe(201);
      expect((await send('/patterned', 'order')).status).toBe(201);
      for (const key of ['order_', 'order_ab1', 'my order_abc', 'order_abc2']) {
        expect(problemIn(await send('/patterned', key))).toEqual(problem(PROBLEMS.malformed));
      }
    });
  });

  describe('a first use', () => {
    it('is answered by the handler, with the key echoed and no marker', async () => {
      const response = await send('/orders', 'first-use');
      expect(response.status).toBe(201);
      expect(json(response)['label']).toBe('first-use');
      expect(lines(response, 'Idempotency-Key')).toEqual(['first-use']);
      expect(lines(response, 'Idempotency-Replayed')).toEqual([]);
    });
  });

  describe('a retry', () => {
    it('gets the same status, headers and bytes, the key and a marker, as often as it comes', async () => {
      const first = await send('/orders', 'replayed');
      for (let attempt = 0; attempt < 3; attempt++) {
        const replay = await send('/orders', 'replayed');
        expect(replay).toEqual(replayOf(first));
        expect(lines(replay, 'Idempotency-Key')).toEqual(['replayed']);
        expect(withoutVolatile(replay.headerLines).toSorted()).toEqual(
          [...withoutVolatile(first.headerLines), 'Idempotency-Replayed: true'].toSorted(),
        );
      }
      expect(await runs('replayed')).toBe(1);
    });

    it('is one also when the members of its JSON come in another order', async () => {
      const first = await send('/orders', 'reordered', { body: '{"label":"reordered","a":1,"b":{"c":2,"d":3}}' });
      const replay = await send('/orders', 'reordered', {
        body: '{ "b": {"d":3, "c":2.0}, "a":1, "label":"reordered" }',
      });
      expect(replay).toEqual(replayOf(first));
    });

    it('is one also when its query parameters come in another order', async () => {
      const first = await send('/orders?a=1&b=2', 'query-order');
      expect(await send('/orders?b=2&a=1', 'query-order')).toEqual(replayOf(first));
    });

    const label = '{"label":"original"}';
    it.each<[string, string, Partial<RawRequest>]>([
      ['method', '/orders', { method: 'PUT' }],
      ['method with a body', '/orders', { method: 'DELETE' }],
      ['path', '/elsewhere', {}],
      ['path parameter', '/orders/8', {}],
      ['query', '/orders?express=true', {}],
      ['payload', '/orders', { body: '{"label":"original","amount":2}' }],
      ['payload by a null', '/orders', { body: '{"label":"original","amount":null}' }],
      [
        'media type',
        '/orders',
        { body: 'label=original', headers: [['Content-Type', 'application/x-www-form-urlencoded']] },
      ],
      ['JSON type', '/orders', { body: '["original"]' }],
    ])('with another %s is refused, and leaves the stored response alone', async (what, path, given) => {
      const key = `mismatch by ${what}`;
      const first = await send('/orders', key, { body: label });
      expect(first.status).toBe(201);
      const before = await rowOf(key);
      const count = await runs('original');

      const refused = await send(path, key, { body: label, ...given });
      expect(problemIn(refused)).toEqual(problem(PROBLEMS.reused));
      expect(lines(refused, 'Idempotency-Key')).toEqual([key]);
      expect(await rowOf(key)).toEqual(before);
      expect(await send('/orders', key, { body: label })).toEqual(replayOf(first));
      expect(await runs('original')).toBe(count);
    });

    it('is told by the path parameter also where the route is the same', async () => {
      const first = await send('/orders/7', 'parameter');
      expect(problemIn(await send('/orders/8', 'parameter'))).toEqual(problem(PROBLEMS.reused));
      expect(await send('/orders/7', 'parameter')).toEqual(replayOf(first));
    });

    it('is told from another request by a fingerprint of the route, with method and path', async () => {
      const body = (note: number, name = 'fingerprinted') => ({ body: JSON.stringify({ label: name, note }) });
      const first = await send('/by-fingerprint', 'fingerprinted', body(1));
      expect(await send('/by-fingerprint?x=1', 'fingerprinted', body(2))).toEqual(replayOf(first));
      expect(problemIn(await send('/by-fingerprint', 'fingerprinted', body(1, 'other')))).toEqual(
        problem(PROBLEMS.reused),
      );
      expect(problemIn(await send('/orders', 'fingerprinted', body(1)))).toEqual(problem(PROBLEMS.reused));
    });

    it('cannot be told by a fingerprint that is undefined: the handler does not run', async () => {
      const logged = collectLogs();
      expect((await send('/without-fingerprint', 'without-fingerprint')).status).toBe(500);
      expect(await runs('without-fingerprint')).toBe(0);
      expect(logged.join()).toContain('fingerprint` resolver returned undefined');
    });

    it('comes too early: 409 with Retry-After, and the first request goes on', async () => {
      const { response, goOn } = await sendAndHold('in-flight');
      const early = await send('/orders', 'in-flight');
      expect(problemIn(early)).toEqual(problem(PROBLEMS.inFlight));
      expect(lines(early, 'Idempotency-Key')).toEqual(['in-flight']);
      goOn();
      const first = await response;
      expect(first.status).toBe(201);
      expect(await send('/orders', 'in-flight')).toEqual(replayOf(first));
      expect(await runs('in-flight')).toBe(1);
    });

    it('runs the handler when the first request failed', async () => {
      cues.fails = true;
      const failed = await send('/orders', 'failed-first');
      expect(failed.status).toBe(500);
      expect(lines(failed, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect(await rowOf('failed-first')).toBeUndefined();
      cues.fails = false;
      const second = await send('/orders', 'failed-first');
      expect(second.status).toBe(201);
      expect(await send('/orders', 'failed-first')).toEqual(replayOf(second));
      expect(await runs('failed-first')).toBe(1);
    });

    it('with another payload is welcome when the first request failed', async () => {
      cues.fails = true;
      expect((await send('/orders', 'corrected', { body: '{"label":"wrong"}' })).status).toBe(500);
      cues.fails = false;
      expect((await send('/orders', 'corrected', { body: '{"label":"right"}' })).status).toBe(201);
      expect([await runs('wrong'), await runs('right')]).toEqual([0, 1]);
    });
  });

  it('answers 503 with Retry-After and runs nothing while the store is unavailable', async () => {
    const stored = await send('/orders', 'stored-before');
    await test.dataSource.query('alter table idempotency_keys rename to not_here');
    try {
      expect(problemIn(await send('/orders', 'unavailable'))).toEqual(problem(PROBLEMS.unavailable));
      expect(problemIn(await send('/orders', 'stored-before'))).toEqual(problem(PROBLEMS.unavailable));
    } finally {
      await test.dataSource.query('alter table not_here rename to idempotency_keys');
    }
    expect(await runs('unavailable')).toBe(0);
    expect((await send('/orders', 'unavailable')).status).toBe(201);
    expect(await send('/orders', 'stored-before')).toEqual(replayOf(stored));
  });

  describe('a response that is too large to keep', () => {
    it.each([
      ['buffered JSON', '/big-json', 201, JSON.stringify({ big: 'x'.repeat(5000) })],
      ['a stream of many pieces', '/big-stream', 202, BIG_STREAM.join('')],
    ])(
      'goes to the first client whole (%s); a retry is told, and nothing runs again',
      async (_, path, status, body) => {
        const key = `tombstone of ${path}`;
        const first = await send(path, key);
        expect(first.status).toBe(status);
        expect(first.body.toString()).toBe(body);
        expect(lines(first, 'Idempotency-Key')).toEqual([key]);

        const row = await rowOf(key);
        expect(row).toMatchObject({ response_body: null, response_status: status });
        for (let attempt = 0; attempt < 2; attempt++) {
          const retry = await send(path, key);
          const completed_at = (row!['created_at'] as Date).toISOString();
          expect(problemIn(retry)).toEqual(problem({ ...PROBLEMS.notKept, original_status: status, completed_at }));
        }
        expect(await runs(key)).toBe(1);
        expect(problemIn(await send(`${path}?other`, key))).toEqual(problem(PROBLEMS.reused));
      },
    );

    it('is one byte larger than the limit, not as large', async () => {
      const first = await send('/just-not-big', 'just-not-big');
      expect(first.body).toHaveLength(1000);
      expect(await send('/just-not-big', 'just-not-big')).toEqual(replayOf(first));
    });
  });

  describe('a problem', () => {
    it('has the type that the module was given', async () => {
      const problemBaseUrl = 'https://api.example.com/problems/';
      const other = await start({ idempotency: { problemBaseUrl } });
      expect(problemIn(await send('/orders', undefined, {}, other))).toEqual(problem(PROBLEMS.missing, problemBaseUrl));
      expect(problemIn(await send('/orders', '"', {}, other))).toEqual(problem(PROBLEMS.malformed, problemBaseUrl));
      expect(problemIn(await send('/endless', 'k', {}, other))).toEqual(problem(PROBLEMS.timedOut, problemBaseUrl));
      expect(problemIn(await send('/swallowing', 'k', {}, other))).toEqual(problem(PROBLEMS.failed, problemBaseUrl));
      expect((await send('/orders', 'k', {}, other)).status).toBe(201);
      expect(problemIn(await send('/orders?x', 'k', {}, other))).toEqual(problem(PROBLEMS.reused, problemBaseUrl));
    });

    it("can be restyled by the application's own filter", async () => {
      const response = await send('/styled', undefined);
      expect(response.status).toBe(418);
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/vnd\.house\+json/)]);
      expect(lines(response, 'Link')).toEqual([]);
      expect(json(response)).toEqual({ code: 'urn:nestjs-idempotency:key-missing' });

      const first = await send('/styled', 'styled');
      expect(first.status).toBe(201);
      expect((await send('/styled?x', 'styled')).status).toBe(418);
      expect(await send('/styled', 'styled')).toEqual(replayOf(first));
    });

    it('never tells the key, and neither does a line of the log', async () => {
      const logged = collectLogs();
      const held = await sendAndHold(SECRET);
      const responses = [
        await send('/orders', SECRET),
        await send('/orders', `"${SECRET}`),
        await send('/orders', `${SECRET}\u00e9`),
        await send('/orders', SECRET.repeat(20)),
        await send('/patterned', SECRET),
        await send('/endless', `${SECRET}-endless`, { body: '{}' }),
        await send('/swallowing', `${SECRET}-swallowing`, { body: '{"label":"s"}' }),
      ];
      held.goOn();
      const first = await held.response;
      cues.fails = true;
      responses.push(
        await send('/orders?other', SECRET),
        await send('/orders', `${SECRET}-failing`, { body: '{"label":"f"}' }),
      );
      cues.fails = false;
      await send('/big-json', `${SECRET}-big`);
      responses.push(await send('/big-json', `${SECRET}-big`));
      await test.dataSource.query('alter table idempotency_keys rename to not_here');
      responses.push(await send('/orders', SECRET));
      await test.dataSource.query('alter table not_here rename to idempotency_keys');
      expect(await send('/orders', SECRET)).toEqual(replayOf(first));

      expect(responses.map(({ status }) => status)).toEqual([409, 400, 400, 400, 400, 503, 500, 422, 500, 409, 503]);
      for (const { body } of responses) {
        expect(body.toString()).not.toContain(SECRET);
      }
      expect(logged.join()).toContain('kaput: f'); // the log was listened to
      expect(logged.join()).toContain('idempotency_keys');
      expect(logged.filter((line) => line.includes(SECRET))).toEqual([]);
    });
  });

  describe('a connection', () => {
    const message = (key: string, headers = '', version = 'HTTP/1.1') =>
      `POST /orders ${version}\r\nHost: h\r\nContent-Type: application/json\r\nIdempotency-Key: ${key}\r\n${headers}` +
      `Content-Length: ${JSON.stringify({ label: key }).length}\r\n\r\n${JSON.stringify({ label: key })}`;

    /** Sends each message when the one before is answered; tells all that came until the server hung up. */
    async function converse(...messages: string[]): Promise<string> {
      const socket = connect(test.port, '127.0.0.1');
      let received = '';
      socket.setEncoding('latin1').on('data', (data: string) => {
        received += data;
        if (received.endsWith('}') && messages.length > 0) {
          socket.write(messages.shift()!);
        }
      });
      socket.write(messages.shift()!);
      await once(socket, 'close');
      return received;
    }

    /** Status, marker and body of each response. */
    const answersIn = (received: string) =>
      received
        .split('HTTP/1.1 ')
        .slice(1)
        .map((answer) => `${answer.slice(0, 3)} ${/-Replayed: true/.test(answer)} ${/\{.*\}/.exec(answer)?.[0]}`);

    it('may carry a request and its retries one after another, and other requests between them', async () => {
      const [first, other, retry, last] = answersIn(
        await converse(
          message('alive-1'),
          message('alive-2'),
          message('alive-1'),
          message('alive-2', 'Connection: close\r\n'),
        ),
      );
      expect(first).toMatch(/^201 false .*"label":"alive-1"/);
      expect(other).toMatch(/^201 false .*"label":"alive-2"/);
      expect(retry).toBe(first!.replace('false', 'true'));
      expect(last).toBe(other!.replace('false', 'true'));
    });

    it('may carry a request and its retry at once: one of them runs, and the answers keep their order', async () => {
      const pipelined = message('piped') + message('piped') + message('piped-other', 'Connection: close\r\n');
      const [first, second, other, ...none] = answersIn(await converse(pipelined));
      // Each has a connection to the database of its own, so the second may be there first.
      const [ran, told] = first!.startsWith('201 false') ? [first!, second] : [second!, first];
      expect(ran).toMatch(/^201 false .*"label":"piped"/);
      expect([ran.replace('false', 'true'), expect.stringMatching(/^409 false .*request-in-flight/)]).toContainEqual(
        told,
      );
      expect(other).toMatch(/^201 false .*"label":"piped-other"/);
      expect(none).toEqual([]);
      expect(await runs('piped')).toBe(1);
      expect(answersIn(await converse(message('piped', 'Connection: close\r\n')))).toEqual([
        ran.replace('false', 'true'),
      ]);
    });

    it('may be one of HTTP/1.0', async () => {
      const first = await converse(message('old', '', 'HTTP/1.0'));
      const retry = await converse(message('old', '', 'HTTP/1.0'));
      expect(answersIn(first)).toEqual([expect.stringMatching(/^201 false .*"label":"old"/)]);
      expect(answersIn(retry)).toEqual([answersIn(first)[0]!.replace('false', 'true')]);
      for (const answer of [first, retry]) {
        expect(answer).not.toMatch(/^transfer-encoding/im);
      }
    });

    it('may ask before it sends the body', async () => {
      const expecting = { headers: [['Expect', '100-continue']] as const };
      const first = await send('/orders', 'expecting', expecting);
      expect(first.raw.toString()).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 201 /);
      expect(await send('/orders', 'expecting', expecting)).toEqual(replayOf(first));
    });

    it('may send the body in chunks: it is the same request', async () => {
      const body = JSON.stringify({ label: 'chunked' });
      const first = await send('/orders', 'chunked', { body });
      const chunked = {
        headers: [['Transfer-Encoding', 'chunked']] as const,
        body: `5\r\n${body.slice(0, 5)}\r\n${(body.length - 5).toString(16)}\r\n${body.slice(5)}\r\n0\r\n\r\n`,
      };
      expect(await send('/orders', 'chunked', chunked)).toEqual(replayOf(first));
    });
  });

  describe('the scope', () => {
    const as = (user: unknown, given: Partial<RawRequest> = {}) => ({
      ...given,
      headers: [['X-User', JSON.stringify(user)] as const],
    });
    const find = (key: string, scope: string) => test.app.get(IdempotencyService).find(key, scope);

    it.each([
      ['id', { id: 'alice', sub: 'not this one' }, 'alice'],
      ['id that is a number', { id: 0 }, '0'],
      ['sub', { sub: 'auth0|bob' }, 'auth0|bob'],
    ])("is the user's %s", async (what, user, scope) => {
      const key = `scope by ${what}`;
      expect((await send('/users/default', key, as(user))).status).toBe(201);
      expect(await find(key, scope)).toMatchObject({ status: 201 });
    });

    it('is shared by requests without a user', async () => {
      expect((await send('/users/default', 'no-user')).status).toBe(201);
      expect(await find('no-user', '')).toMatchObject({ status: 201 });
    });

    it('is what the resolver says', async () => {
      const first = await send('/users/resolved', 'tenant', as({ tenant: 'acme', id: 1 }));
      expect(await send('/users/resolved', 'tenant', as({ tenant: 'acme', id: 2 }))).toEqual(replayOf(first));
      expect(await find('tenant', 'acme')).toMatchObject({ status: 201 });
    });

    it.each([
      ['neither id nor sub', '/users/default', { name: 'eve' }],
      ['an empty id', '/users/default', { id: '', sub: 'x' }],
      ['an id that is an object', '/users/default', { id: { $ne: 1 } }],
      ['an id that is no number after all', '/users/default', { id: 'NaN' }],
      ['an id with half a character', '/users/default', { id: 'eve\ud800' }],
      ['a resolver without an answer', '/users/resolved', { id: 1 }],
      ['a resolver with an answer that is too long', '/users/resolved', { tenant: 'x'.repeat(256) }],
      ['a resolver with an answer that cannot be stored', '/users/resolved', { tenant: 'a\0b' }],
    ])('is an error that names the remedy, and runs nothing: %s', async (what, path, user) => {
      const logged = collectLogs();
      const response = await send(path, `scope: ${what}`, as(user));
      expect(response.status).toBe(500);
      expect(await runs(`scope: ${what}`)).toBe(0);
      expect(logged).toEqual([expect.stringContaining('Set the option `scope` of @Idempotent() or IdempotencyModule')]);
    });

    it('keeps the answers of two users with the same key apart', async () => {
      const alice = await send('/users/default', 'shared-key', as({ id: 'alice' }));
      const bob = await send('/users/default', 'shared-key', as({ id: 'bob' }));
      expect([alice.status, bob.status]).toEqual([201, 201]);
      expect(lines(bob, 'Idempotency-Replayed')).toEqual([]);
      expect(json(bob)['id']).not.toBe(json(alice)['id']);
      expect(await send('/users/default', 'shared-key', as({ id: 'alice' }))).toEqual(replayOf(alice));
      expect(await send('/users/default', 'shared-key', as({ id: 'bob' }))).toEqual(replayOf(bob));

      const other = { body: '{"label":"shared-key","other":1}' };
      expect((await send('/users/default', 'shared-key', as({ id: 'carol' }, other))).status).toBe(201);
    });

    it('comes behind the guards: who may no longer do it does not get the replay', async () => {
      const user = as({ id: 'dave' });
      const first = await send('/users/default', 'guarded', user);
      Authentication.revoked.add(JSON.stringify({ id: 'dave' }));
      const refused = await send('/users/default', 'guarded', user);
      expect(refused.status).toBe(403);
      expect(lines(refused, 'Idempotency-Replayed')).toEqual([]);
      expect(refused.body.includes(first.body)).toBe(false);

      Authentication.revoked.clear();
      expect(await send('/users/default', 'guarded', user)).toEqual(replayOf(first));
      expect(await runs('guarded')).toBe(1);
    });
  });

  describe('an expired key', () => {
    const backDate = (key: string) =>
      test.dataSource.query(
        `update idempotency_keys set created_at = created_at - interval '2 days', expires_at = expires_at - interval '2 days'
         where key = $1`,
        [key],
      );

    it('neither replays nor blocks while its row is still there', async () => {
      const first = await send('/orders', 'expired');
      await backDate('expired');
      const second = await send('/orders', 'expired');
      expect(second.status).toBe(201);
      expect(lines(second, 'Idempotency-Replayed')).toEqual([]);
      expect(json(second)['id']).not.toBe(json(first)['id']);
      expect(await send('/orders', 'expired')).toEqual(replayOf(second));

      await backDate('expired');
      expect((await send('/orders', 'expired', { body: '{"label":"expired","other":1}' })).status).toBe(201);
      expect(await runs('expired')).toBe(3);
    });

    it('takes the tombstone with it', async () => {
      await send('/big-json', 'expired-tombstone');
      expect(json(await send('/big-json', 'expired-tombstone'))).toMatchObject({ title: PROBLEMS.notKept.title });
      await backDate('expired-tombstone');
      expect((await send('/big-json', 'expired-tombstone')).status).toBe(201);
      expect(await runs('expired-tombstone')).toBe(2);
    });

    it('is kept for 24 hours by default, to the last minute', async () => {
      const first = await send('/orders', 'to-the-last');
      const { created_at, expires_at } = (await rowOf('to-the-last')) as Record<string, Date>;
      expect(expires_at!.getTime() - created_at!.getTime()).toBe(24 * 3_600_000);
      await test.dataSource.query(
        `update idempotency_keys set expires_at = clock_timestamp() + interval '1 minute' where key = 'to-the-last'`,
      );
      expect(await send('/orders', 'to-the-last')).toEqual(replayOf(first));
    });
  });

  describe('@Idempotent() on a class', () => {
    const withKey = (header: string, key: string) => ({
      headers: [[header, key]] as const,
      body: JSON.stringify({ label: key }),
    });

    it('leaves GET alone', async () => {
      const response = await test.request({ method: 'GET', path: '/whole/read' });
      expect(response.status).toBe(200);
      expect(response.body.toString()).toBe('{"read":true}');
    });

    it.each(['own', 'inherited', 'overridden'])('makes the %s handler idempotent, by its options', async (name) => {
      const given = withKey('X-Class-Key', `class-${name}`);
      const first = await send(`/whole/${name}`, undefined, given);
      expect(first.status).toBe(201);
      expect(await send(`/whole/${name}`, undefined, given)).toEqual(replayOf(first));
      expect(problemIn(await send(`/whole/${name}`, 'in-the-default-header'))).toEqual(problem(PROBLEMS.missing));
    });

    it('gives way to the options of a method, option by option', async () => {
      const given = withKey('X-Method-Key', 'method-option');
      const first = await send('/whole/method', undefined, given);
      expect(await send('/whole/method', undefined, given)).toEqual(replayOf(first));
      const { created_at, expires_at } = (await rowOf('method-option')) as Record<string, Date>;
      expect(expires_at!.getTime() - created_at!.getTime()).toBe(7 * 86_400_000);
      expect(problemIn(await send('/whole/method', undefined, withKey('X-Class-Key', 'x')))).toEqual(
        problem(PROBLEMS.missing),
      );
    });

    it('leaves the other controllers alone that inherit the same handlers', async () => {
      const responses = [await send('/plain/inherited', 'plain'), await send('/plain/inherited', 'plain')];
      expect(responses.map(({ status }) => status)).toEqual([201, 201]);
      expect(await runs('plain')).toBe(2);
      expect(lines(responses[1]!, 'Idempotency-Key')).toEqual([]);
    });

    it('wins over the module, whose options are for all the others', async () => {
      const other = await start({ idempotency: { header: 'X-Module-Key', ttlMs: 60_000 } });
      const ofModule = withKey('X-Module-Key', 'module-option');
      const first = await send('/module/own', undefined, ofModule, other);
      expect(await send('/module/own', undefined, ofModule, other)).toEqual(replayOf(first));
      expect(problemIn(await send('/module/own', 'default', {}, other))).toEqual(problem(PROBLEMS.missing));

      const ofClass = withKey('X-Class-Key', 'class-option');
      expect((await send('/whole/own', undefined, ofClass, other)).status).toBe(201);
      expect(problemIn(await send('/whole/own', undefined, ofModule, other))).toEqual(problem(PROBLEMS.missing));
      expect(
        await other.dataSource.query(
          'select key, extract(epoch from expires_at - created_at)::int as ttl from idempotency_keys order by key',
        ),
      ).toEqual([
        { key: 'class-option', ttl: 7 * 86_400 },
        { key: 'module-option', ttl: 60 },
      ]);
    });
  });
});

describe('over HTTP/2, which Fastify speaks', () => {
  it('refuses to run what it cannot hold back', async () => {
    const database = await createTestDatabase();
    const logged = collectLogs();
    class AppModule {}
    const app = await NestFactory.create(
      {
        module: AppModule,
        imports: [
          TypeOrmModule.forRoot({ type: 'postgres', url: database.url, entities: [Effect], synchronize: true }),
          TypeOrmModule.forFeature([Effect]),
          IdempotencyModule.forRoot({ scope: () => '' }),
        ],
        controllers: [OfModule],
        providers: [Cues, Work],
      },
      new FastifyAdapter({ http2: true } as unknown as ConstructorParameters<typeof FastifyAdapter>[0]),
    );
    await app.listen(0, '127.0.0.1');
    const session = http2.connect(await app.getUrl());
    try {
      const stream = session.request({ ':method': 'POST', ':path': '/module/own', 'idempotency-key': 'k' });
      stream.end();
      const [head] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders];
      stream.resume();
      await once(stream, 'end');
      expect(head[':status']).toBe(500);
      expect(logged.join()).toContain('cannot hold a response over HTTP/2 back');
      expect(await app.get(DataSource).manager.count(Effect)).toBe(0);
    } finally {
      session.close();
      await app.close();
      await database.drop();
    }
  });
});
