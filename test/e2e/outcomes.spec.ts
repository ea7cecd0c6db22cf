import { AsyncLocalStorage } from 'node:async_hooks';
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { inspect } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type ArgumentsHost,
  Body,
  type CallHandler,
  Catch,
  ConflictException,
  Controller,
  type ExceptionFilter,
  type ExecutionContext,
  Header,
  HttpException,
  Injectable,
  Logger,
  mixin,
  type NestInterceptor,
  Post,
  RequestTimeoutException,
  Res,
  ServiceUnavailableException,
  StreamableFile,
  type Type,
  UseFilters,
  UseInterceptors,
} from '@nestjs/common';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { IsInt, IsString } from 'class-validator';
import {
  catchError,
  defer,
  first as firstValue,
  from,
  map,
  merge,
  mergeMap,
  NEVER,
  Observable,
  of,
  repeat,
  retry,
  take,
  tap,
  throwError,
  timeout,
} from 'rxjs';
import { DataSource, type Repository } from 'typeorm';
import { type Deferred, deferred } from '../../src/deferred.js';
import { Idempotent, IdempotencyContext, IdempotencyService, TransactionRolledBackError } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { openRequest, type RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** What `@Res()` hands over: Express' response, or Fastify's reply. */
interface AnyResponse {
  status(code: number): AnyResponse;
  header(name: string, value: string | string[]): AnyResponse;
  send(body?: unknown): AnyResponse;
  hijack?(): void;
  raw?: ServerResponse;
}

const rawOf = (response: AnyResponse): ServerResponse => response.raw ?? (response as unknown as ServerResponse);

/** A place in a handler, or in what is around it, where a test holds it; by name. */
class Gates {
  private readonly gates = new Map<string, { entered: Deferred<void>; opened: Deferred<void> }>();

  async pass(name: string): Promise<void> {
    const { entered, opened } = this.at(name);
    entered.resolve();
    await opened.promise;
  }

  entered(name: string): Promise<void> {
    return this.at(name).entered.promise;
  }

  opened(name: string): Promise<void> {
    return this.at(name).opened.promise;
  }

  open(name: string): void {
    this.at(name).opened.resolve();
  }

  private at(name: string) {
    const gate = this.gates.get(name) ?? { entered: deferred(), opened: deferred() };
    this.gates.set(name, gate);
    return gate;
  }
}

/** Long enough for two runs, each of which takes a good part of it. */
const TIME_LIMIT_MS = 1500;

let gates = new Gates();
/** Whether handlers, and what is around them, fail as their names say; a test turns it off for the retry. */
let broken = true;
/** What handlers have noted, by label. */
const notes = new Map<string, unknown[]>();

function note(label: string, what: unknown): void {
  notes.set(label, [...(notes.get(label) ?? []), what]);
}

/** An interceptor that does this with what the handler answers. */
function outer(around: (handled: Observable<unknown>, context: ExecutionContext) => Observable<unknown>): Type {
  @Injectable()
  class Outer implements NestInterceptor {
    intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
      return around(next.handle(), context);
    }
  }
  return mixin(Outer);
}

const labelOf = (context: ExecutionContext): string =>
  context.switchToHttp().getRequest<{ body: { label: string } }>().body.label;

const caller = new AsyncLocalStorage<string>();

@Injectable()
class AsyncContext implements NestInterceptor {
  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return caller.run('the outer interceptor', () => next.handle());
  }
}

@Catch()
class BrokenFilter implements ExceptionFilter {
  catch(exception: Error, host: ArgumentsHost): void {
    host.switchToHttp().getResponse<AnyResponse>().status(502).send({ filtered: exception.message });
  }
}

@Catch()
class ThrowingFilter implements ExceptionFilter {
  catch(exception: Error): void {
    throw new Error(`the filter failed on ${exception.message}`);
  }
}

class Payment {
  @IsString()
  label!: string;

  @IsInt()
  amount!: number;
}

/** Knows nothing of idempotency. */
@Injectable()
class Ledger {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  async write(label: string): Promise<{ label: string }> {
    note(label, 'ran');
    await this.effects.save({ label });
    return { label };
  }
}

interface Labelled {
  label: string;
  sql?: string;
}

@Controller()
class Handlers {
  constructor(
    private readonly ledger: Ledger,
    private readonly idempotency: IdempotencyService,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  @Post('plain')
  @Idempotent()
  plain(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('thrown')
  @Idempotent()
  async thrown(@Body() { label }: Labelled) {
    const written = await this.ledger.write(label);
    if (broken) {
      throw new Error('the handler threw');
    }
    return written;
  }

  @Post('validated')
  @Idempotent()
  validated(@Body() payment: Payment) {
    return this.ledger.write(payment.label);
  }

  @Post('thrown-503')
  @Idempotent()
  async thrown503(@Body() { label }: Labelled) {
    const written = await this.ledger.write(label);
    if (broken) {
      throw new ServiceUnavailableException();
    }
    return written;
  }

  @Post('passthrough-500')
  @Idempotent()
  passthrough500(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    response.status(broken ? 500 : 201);
    return this.ledger.write(label);
  }

  @Post('res-500')
  @Idempotent()
  async res500(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.status(broken ? 500 : 201).send(await this.ledger.write(label));
  }

  @Post('filter-502')
  @UseFilters(BrokenFilter)
  @Idempotent({ storeErrors: () => true })
  async filter502(@Body() { label }: Labelled) {
    const written = await this.ledger.write(label);
    if (broken) {
      throw new HttpException('no money', 402);
    }
    return written;
  }

  @Post('outer-500')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(catchOrGiveUp(new Error('outer')))))
  outer500(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-status-503')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) =>
      handled.pipe(
        tap(() =>
          context
            .switchToHttp()
            .getResponse<AnyResponse>()
            .status(broken ? 503 : 201),
        ),
      ),
    ),
  )
  outerStatus(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('unserialisable')
  @Idempotent()
  async unserialisable(@Body() { label }: Labelled) {
    const written = await this.ledger.write(label);
    return broken ? { amount: 1n } : written;
  }

  @Post('outer-map')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(catchOrGiveUp(new ConflictException('in map')))))
  outerMap(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-merge-map')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) =>
      handled.pipe(
        mergeMap(async (value) => {
          await gates.pass(labelOf(context));
          if (broken) {
            throw new ConflictException('in mergeMap');
          }
          return value;
        }),
      ),
    ),
  )
  outerMergeMap(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  /** What `timeout()` does, at a moment that the test chooses. */
  @Post('outer-timeout')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) =>
      merge(
        handled.pipe(tap({ complete: () => gates.open(`time limit of ${labelOf(context)}`) })),
        from(gates.opened(`time limit of ${labelOf(context)}`)).pipe(
          mergeMap(() => (broken ? throwError(() => new RequestTimeoutException()) : of())),
        ),
      ),
    ),
  )
  async outerTimeout(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (broken) {
      await gates.pass(label);
      await this.writeLate(label);
    }
    return { label };
  }

  /** Every way to the database, after the request's transaction was rolled back. */
  private async writeLate(label: string): Promise<void> {
    const late: [string, () => Promise<unknown>][] = [
      ['repository', () => this.ledger.write(label)],
      ['query', () => this.dataSource.query(`insert into effects (label) values ('${label}')`)],
      ['transaction', () => this.dataSource.transaction((manager) => manager.save(Effect, { label }))],
    ];
    for (const [way, write] of late) {
      const error: unknown = await write().catch((thrown: unknown) => thrown);
      note(label, `${way}: ${error instanceof TransactionRolledBackError ? 'refused' : inspect(error)}`);
    }
    note(label, 'done');
  }

  @Post('store-errors')
  @Idempotent({ storeErrors: (status) => status === 402 || status >= 500 })
  async storeErrors(
    @Body() { label, status }: Labelled & { status: number },
    @IdempotencyContext() context: IdempotencyContext,
  ) {
    context.afterCommit(() => note(label, 'committed'));
    await this.ledger.write(label);
    throw new HttpException({ reason: 'declined', at: process.hrtime.bigint().toString() }, status);
  }

  @Post('res-then-throws')
  @Idempotent()
  async resThenThrows(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.status(201).send({ paid: true });
    await this.ledger.write(label);
    if (broken) {
      throw new ConflictException('after the answer');
    }
  }

  @Post('never-answers')
  @Idempotent({ timeoutMs: 200 })
  async neverAnswers(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.ledger.write(label);
    if (broken) {
      rawOf(response).write('never the end');
    } else {
      response.status(201).send({ label });
    }
  }

  @Post('too-long')
  @Idempotent({ timeoutMs: 200 })
  async tooLong(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (broken) {
      await gates.pass(label);
      await this.writeLate(label);
    }
    return { label };
  }

  @Post('outer-never-completes')
  @Idempotent({ timeoutMs: 200 })
  @UseInterceptors(outer((handled) => handled.pipe(mergeMap((value) => (broken ? NEVER : of(value))))))
  outerNever(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('deferred-constraint')
  @Idempotent({ storeErrors: () => true })
  async deferredConstraint(@Body() { label }: Labelled, @IdempotencyContext() context: IdempotencyContext) {
    context.afterCommit(() => note(label, 'committed'));
    await this.ledger.write(label);
    await this.dataSource.query('insert into children (parent) values ($1)', [broken ? 2 : 1]);
    return { label };
  }

  @Post('swallowed')
  @Idempotent({ storeErrors: () => true })
  async swallowed(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await this.dataSource.query(`select 1 / ${broken ? 0 : 1}`).catch(() => note(label, 'swallowed'));
    return { label };
  }

  @Post('swallowed-in-savepoint')
  @Idempotent()
  async swallowedInSavepoint(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await this.dataSource.transaction((manager) => manager.query('select 1 / 0')).catch(() => note(label, 'swallowed'));
    return { label };
  }

  @Post('transaction-control')
  @Idempotent()
  async transactionControl(@Body() { label, sql }: Labelled) {
    await this.ledger.write(label);
    await this.dataSource.query(sql!).catch((error: Error) => {
      note(label, error.message);
      throw error;
    });
    return { label };
  }

  @Post('after-commit')
  @Idempotent()
  async afterCommit(@Body() { label }: Labelled, @IdempotencyContext() context: IdempotencyContext) {
    context.afterCommit(() => {
      throw new Error('a callback threw');
    });
    context.afterCommit(async () => {
      const seen = await this.dataSource.query('select 1 from idempotency_keys where key = $1', [label]);
      note(label, `committed: ${(seen as unknown[]).length}`);
    });
    const written = await this.ledger.write(label);
    if (broken) {
      throw new Error('rolled back');
    }
    return written;
  }

  @Post('context')
  @Idempotent({ required: false, scope: () => 'a scope' })
  async context(@Body() { label }: Labelled, @IdempotencyContext() context?: IdempotencyContext) {
    if (context === undefined) {
      return { context: 'none' };
    }
    await context.manager.save(Effect, { label });
    if (broken) {
      throw new Error('rolled back');
    }
    return { key: context.key, scope: context.scope, attempt: context.attempt };
  }

  @Post('outside')
  @Idempotent()
  async outside(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await this.idempotency.outsideTransaction(() => this.ledger.write(`${label}: audit`));
    if (broken) {
      throw new Error('rolled back');
    }
    return { label };
  }

  @Post('slow-json')
  @Idempotent()
  async slowJson(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await gates.pass(label);
    return { label, text: 'of the first run' };
  }

  @Post('slow-failing')
  @Idempotent()
  async slowFailing(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await gates.pass(label);
    if (broken) {
      throw new Error('after all');
    }
    return { label };
  }

  @Post('slow-observable')
  @Idempotent()
  async slowObservable(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    return from(gates.pass(label)).pipe(map(() => ({ label, text: 'of the first run' })));
  }

  @Post('slow-stream')
  @Idempotent()
  async slowStream(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    return new StreamableFile(
      Readable.from(
        (async function* () {
          yield Buffer.from('of the ');
          await gates.pass(label);
          yield Buffer.from('first run');
        })(),
      ),
    );
  }

  @Post('slow-res')
  @Idempotent()
  async slowRes(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.ledger.write(label);
    rawOf(response).write('of the ');
    await gates.pass(label);
    rawOf(response).end('first run');
  }

  @Post('large-stream')
  @Idempotent()
  async largeStream(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    const pieces = (async function* () {
      try {
        for (let piece = 0; piece < 64; piece++) {
          if (piece === 24) {
            await gates.pass(label); // beyond 1 MiB
          }
          yield Buffer.alloc(64 * 1024, piece);
        }
      } finally {
        note(label, 'stream closed');
      }
    })();
    return new StreamableFile(Readable.from(pieces));
  }

  @Post('outer-retries')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(retry(2))))
  async outerRetries(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    const run = notes.get(label)!.length;
    if (run < 3) {
      throw Object.assign(new Error(`run ${run}`), run === 2 ? { code: '40001' } : {});
    }
    return { run };
  }

  @Post('broken-when-run-again')
  @Idempotent({ retries: 1 })
  @UseFilters(ThrowingFilter)
  async brokenWhenRunAgain(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (broken && notes.get(label)!.length > 1) {
      throw new Error('run 2');
    }
    if (broken) {
      await this.dataSource.query('insert into conflicts values (1)'); // fails with 40001 at COMMIT
    }
    return { label };
  }

  /** The second run outlasts the time limit of the first, not its own. */
  @Post('outer-retries-slowly')
  @Idempotent({ timeoutMs: TIME_LIMIT_MS })
  @UseInterceptors(outer((handled) => handled.pipe(retry(1))))
  @Header('Cache-Control', 'no-store')
  async outerRetriesSlowly(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    const began = performance.now();
    const lasts = (ms: number) => waitFor(() => performance.now() - began > ms, { what: `${ms} ms to pass` });
    await this.ledger.write(label);
    response.header('X-Order', 'one');
    if (notes.get(label)!.length === 1) {
      response.header('X-Failed', 'yes').header('Cache-Control', 'max-age=60').status(402);
      rawOf(response).statusMessage = 'Declined';
      await lasts(TIME_LIMIT_MS * 0.4);
      throw new Error('run 1');
    }
    await lasts(TIME_LIMIT_MS * 0.7);
    return { run: 2 };
  }

  /** The first run is given up by the outer interceptor, and answers when the second one is under way. */
  @Post('outer-gives-up-and-retries')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) => {
      const label = labelOf(context);
      const timeLimit = from(gates.opened(`time limit of ${label}`)).pipe(
        mergeMap(() => throwError(() => new RequestTimeoutException())),
      );
      return defer(() => (notes.has(label) ? handled : merge(handled, timeLimit).pipe(take(1)))).pipe(retry(1));
    }),
  )
  async outerGivesUpAndRetries(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.ledger.write(label);
    const run = notes.get(label)!.length;
    await gates.pass(`run ${run} of ${label}`);
    response.status(201).send({ run });
    note(label, `run ${run} answered`);
  }

  /** The first run loses its connection, and with it the key. */
  @Post('outer-retries-lost-connection')
  @Idempotent({ storeErrors: () => true })
  @UseInterceptors(
    outer((handled, context) => handled.pipe(retry({ count: 1, delay: () => from(gates.pass(labelOf(context))) }))),
  )
  async outerRetriesLostConnection(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    await this.ledger.write(label);
    response.header('X-Order', 'one');
    if (notes.get(label)!.length === 1) {
      await this.dataSource.query('select pg_terminate_backend(pg_backend_pid())');
    }
    return { label };
  }

  /** Waits at a gate before it runs the route again. */
  @Post('outer-retries-later')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) => handled.pipe(retry({ delay: () => from(gates.pass(labelOf(context))) }))),
  )
  async outerRetriesLater(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (broken) {
      throw new Error('run 1');
    }
    return { label, large: 'x'.repeat(900_000) };
  }

  /** With `storeErrors` its key stays claimed until it is answered: the second run finds the first in flight. */
  @Post('outer-retries-stored-errors')
  @Idempotent({ storeErrors: () => true })
  @UseInterceptors(outer((handled) => handled.pipe(retry(1))))
  async outerRetriesStoredErrors(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (broken) {
      throw new ConflictException('of its own');
    }
    return { label };
  }

  @Post('outer-tries-later')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) => handled.pipe(retry({ delay: () => from(gates.pass(labelOf(context))) }))),
  )
  outerTriesLater(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    response.status(409);
    return this.ledger.write(label);
  }

  @Post('outer-repeats')
  @Idempotent()
  @UseInterceptors(outer((handled) => (broken ? handled.pipe(repeat(2)) : handled)))
  outerRepeats(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-subscribes-twice')
  @Idempotent()
  @UseInterceptors(outer((handled) => (broken ? merge(handled, handled) : handled)))
  outerSubscribesTwice(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-first')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(firstValue())))
  outerFirst(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-take')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(take(1))))
  outerTake(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-cached')
  @Idempotent()
  @UseInterceptors(outer((handled) => (broken ? of({ cached: true }) : handled)))
  outerCached(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-catches')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(catchError((error: Error) => of({ instead: error.message })))))
  async outerCatches(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (broken) {
      throw new Error('rolled back');
    }
    return { label };
  }

  @Post('outer-translates')
  @Idempotent()
  @UseInterceptors(
    outer((handled) => handled.pipe(catchError(() => throwError(() => new HttpException({ translated: true }, 418))))),
  )
  outerTranslates(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-answers')
  @Idempotent({ key: (context) => labelOf(context) })
  @UseInterceptors(
    outer((handled, context) => {
      rawOf(context.switchToHttp().getResponse<AnyResponse>()).writeHead(202).end('accepted');
      return handled;
    }),
  )
  outerAnswers(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('waiting')
  @Idempotent({ inFlight: { waitMs: 10_000 } })
  @UseInterceptors(
    outer((handled, context) =>
      merge(
        handled,
        from(gates.opened(`time limit of ${labelOf(context)}`)).pipe(
          mergeMap(() => throwError(() => new RequestTimeoutException())),
        ),
      ).pipe(take(1)),
    ),
  )
  async waiting(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    return { label };
  }

  @Post('in-context')
  @Idempotent()
  @UseInterceptors(AsyncContext)
  async inContext(@Body() { label }: Labelled) {
    const before = caller.getStore();
    await this.ledger.write(label);
    return { before, after: caller.getStore() };
  }

  @Post('ends-twice')
  @Idempotent()
  async endsTwice(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    rawOf(response).end('once');
    await this.ledger.write(label);
    rawOf(response).end('twice');
    rawOf(response).write('after the end', () => note(label, 'called back'));
  }

  @Post('writes-with-callbacks')
  @Idempotent()
  async writesWithCallbacks(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    const raw = rawOf(response);
    raw.writeHead(202, 'Taken', ['Content-Type', 'text/plain', 'X-List', 'one']);
    await new Promise((resolve) => void raw.write('a', resolve));
    await new Promise((resolve) => void raw.write('6263', 'hex', resolve));
    await this.ledger.write(label);
    raw.end(Buffer.from('d'), () => note(label, 'ended'));
  }

  @Post('huge-head')
  @Idempotent()
  huge(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    response.header('X-Huge', 'h'.repeat(50_000)).header('x-oDD-cAsE', 'caf\u00e9');
    return this.ledger.write(label);
  }

  @Post('in-time')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(timeout(20_000))))
  inTime(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }
}

/** Lets the value pass, or throws from within `map`. */
function catchOrGiveUp(error: Error) {
  return map((value: unknown) => {
    if (broken) {
      throw error;
    }
    return value;
  });
}

/** All values of a header, one for each line. */
function lines({ headerLines }: RawResponse, name: string): string[] {
  const start = `${name.toLowerCase()}: `;
  return headerLines.filter((line) => line.toLowerCase().startsWith(start)).map((line) => line.slice(start.length));
}

const json = (response: RawResponse) => JSON.parse(response.body.toString()) as Record<string, unknown>;

function replayOf({ statusLine, body }: RawResponse) {
  return expect.objectContaining({
    statusLine,
    body,
    headerLines: expect.arrayContaining(['Idempotency-Replayed: true']),
  });
}

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [Handlers], providers: [Ledger] });
    await test.dataSource.query(`
      create table parents (id int primary key);
      insert into parents values (1);
      create table children (parent int references parents deferrable initially deferred);
      create table conflicts (number int);
      create function conflict() returns trigger language plpgsql as $$
        begin raise exception 'could not serialize' using errcode = '40001'; end $$;
      create constraint trigger conflict after insert on conflicts deferrable initially deferred
        for each row execute function conflict()`);
  });

  afterEach(() => {
    broken = true;
    gates = new Gates();
    notes.clear();
  });

  afterAll(() => test.close());

  /** The label, which is the key as well, names what the request leaves behind. */
  const send = (path: string, body: object = {}, label = path) => test.post(`/${path}`, label, { label, ...body });

  const effects = async (label: string) => (await test.effects()).filter((effect) => effect === label).length;

  const isStored = async (key: string) =>
    ((await test.dataSource.query('select 1 from idempotency_keys where key = $1', [key])) as unknown[]).length === 1;

  /** Nothing of the request is there, and a retry that may succeed runs once, commits and is replayed. */
  async function expectRolledBack(path: string, retried = () => send(path)): Promise<void> {
    expect([await effects(path), await isStored(path)]).toEqual([0, false]);
    broken = false;
    const second = await retried();
    expect(second.status).toBe(201);
    expect(lines(second, 'Idempotency-Replayed')).toEqual([]);
    expect(await send(path)).toEqual(replayOf(second));
    expect([await effects(path), await isStored(path)]).toEqual([1, true]);
  }

  /** Where the connection was closed in the middle, PostgreSQL may take a moment to notice. */
  const onceFree = (request: () => Promise<RawResponse>) => () =>
    waitFor(
      async () => {
        const response = await request();
        return response.status === 409 ? undefined : response;
      },
      { what: 'the key to be free' },
    );

  describe('an error', () => {
    it('rolls all writes back and is not stored: the retry runs again', async () => {
      const failed = await send('thrown');
      expect(failed.status).toBe(500);
      expect(lines(failed, 'Idempotency-Key')).toEqual(['thrown']);
      await expectRolledBack('thrown');
    });

    it('of validation leaves the key usable, also for a corrected body', async () => {
      const invalid = await send('validated', { amount: 'much' });
      expect(invalid.status).toBe(400);
      expect(json(invalid)['message']).toEqual(['amount must be an integer number']);
      expect([await effects('validated'), await isStored('validated')]).toEqual([0, false]);
      const valid = await send('validated', { amount: 7 });
      expect(valid.status).toBe(201);
      expect(await send('validated', { amount: 7 })).toEqual(replayOf(valid));
      expect(await effects('validated')).toBe(1);
    });

    it.each([
      ['thrown by the handler', 'thrown-503', 503],
      ['set by the handler as a status', 'passthrough-500', 500],
      ['sent by the handler', 'res-500', 500],
      ['made of another one by a filter, though the route stores errors', 'filter-502', 502],
      ['thrown by an outer interceptor', 'outer-500', 500],
      ['set by an outer interceptor as a status', 'outer-status-503', 503],
      ['of a value that cannot be sent', 'unserialisable', 500],
      ['of 4xx thrown by an outer interceptor, in map', 'outer-map', 409],
    ])('is rolled back when it was %s', async (_, path, status) => {
      expect((await send(path)).status).toBe(status);
      await expectRolledBack(path);
      expect(notes.get(path)).toEqual(['ran', 'ran']);
    });

    it('of an outer interceptor is rolled back also when it comes later', async () => {
      const response = send('outer-merge-map');
      await gates.entered('outer-merge-map');
      expect(await effects('outer-merge-map')).toBe(0);
      gates.open('outer-merge-map');
      expect((await response).status).toBe(409);
      await expectRolledBack('outer-merge-map');
    });

    it.each([
      ['a time limit of an outer interceptor', 'outer-timeout', 408],
      ["the route's own time limit", 'too-long', 503],
    ])('of %s leaves nothing, and what the handler writes later fails loudly', async (_, path, status) => {
      const response = send(path);
      await gates.entered(path);
      gates.open(`time limit of ${path}`);
      expect((await response).status).toBe(status);
      expect(await effects(path)).toBe(0);

      gates.open(path);
      await waitFor(() => notes.get(path)?.includes('done'), { what: 'the late writes' });
      expect(notes.get(path)).toEqual([
        'ran',
        'ran', // the service, which is told when it saves
        'repository: refused',
        'query: refused',
        'transaction: refused',
        'done',
      ]);
      await expectRolledBack(
        path,
        onceFree(() => send(path)),
      );
    });
  });

  describe('storeErrors', () => {
    it('stores the accepted error without the writes of the handler, and nothing runs after commit', async () => {
      const failed = await send('store-errors', { status: 402 });
      expect(failed.status).toBe(402);
      expect(json(failed)).toMatchObject({ reason: 'declined' });
      expect(lines(failed, 'Idempotency-Replayed')).toEqual([]);
      expect(await send('store-errors', { status: 402 })).toEqual(replayOf(failed));
      expect([await effects('store-errors'), await isStored('store-errors')]).toEqual([0, true]);
      expect(notes.get('store-errors')).toEqual(['ran']);
    });

    it('does not store a problem that tells of the very request', async () => {
      const [one, two] = [await send('outer-retries-stored-errors'), await send('outer-retries-stored-errors')];
      for (const answer of [one, two]) {
        expect(answer.status).toBe(409);
        expect(json(answer)).toMatchObject({ type: 'urn:nestjs-idempotency:request-in-flight' });
        expect(lines(answer, 'Idempotency-Replayed')).toEqual([]);
      }
      await expectRolledBack('outer-retries-stored-errors');
    });

    it.each([409, 500, 503])('does not store an error of %d, whatever it says of that', async (status) => {
      const label = `store-errors-${status}`;
      const [one, two] = [await send('store-errors', { status }, label), await send('store-errors', { status }, label)];
      expect([one.status, two.status]).toEqual([status, status]);
      expect(json(one)['at']).not.toBe(json(two)['at']);
      expect([await effects(label), await isStored(label)]).toEqual([0, false]);
      expect(notes.get(label)).toEqual(['ran', 'ran']);
    });
  });

  describe('@Res()', () => {
    it('that answers and then throws does not send its success', async () => {
      const failed = await send('res-then-throws');
      expect(failed.status).toBe(500);
      expect(json(failed)).toMatchObject({ type: 'urn:nestjs-idempotency:transaction-failed' });
      await expectRolledBack('res-then-throws');
    });

    it.each(['never-answers', 'outer-never-completes'])(
      'or whoever else never ends the response gets 503 in the end, and the key is free (%s)',
      async (path) => {
        const failed = await send(path);
        expect(failed.status).toBe(503);
        expect(json(failed)).toMatchObject({
          type: 'urn:nestjs-idempotency:timed-out',
          detail: 'The operation was rolled back after 200 ms. Retry with the same key.',
        });
        expect(lines(failed, 'Retry-After')).toEqual(['2']);
        await expectRolledBack(
          path,
          onceFree(() => send(path)),
        );
      },
    );

    it('may end twice, and write behind the end: the first end counts', async () => {
      const response = await send('ends-twice');
      expect(response.body.toString()).toBe('once');
      expect(await send('ends-twice')).toEqual(replayOf(response));
      expect(await effects('ends-twice')).toBe(1);
      await waitFor(() => notes.get('ends-twice')?.includes('called back'), { what: 'the callback of the late write' });
    });

    it('may write piece by piece, wait for each, and call back', async () => {
      const response = await send('writes-with-callbacks');
      expect(response.statusLine).toBe('HTTP/1.1 202 Taken');
      expect(response.body.toString()).toBe('abcd');
      expect(lines(response, 'X-List')).toEqual(['one']);
      await waitFor(() => notes.get('writes-with-callbacks')?.includes('ended'), { what: 'the callback of end()' });
      const replay = await send('writes-with-callbacks');
      expect(replay).toMatchObject({ status: 202, body: response.body });
      expect(lines(replay, 'X-List')).toEqual(['one']);
      expect(await effects('writes-with-callbacks')).toBe(1);
    });
  });

  it('keeps headers of any size and spelling', async () => {
    const response = await send('huge-head');
    expect(lines(response, 'X-Huge')).toEqual(['h'.repeat(50_000)]);
    expect(lines(response, 'X-Odd-Case')).toEqual(['caf\u00e9']);
    const replay = await send('huge-head');
    expect(replay).toEqual(replayOf(response));
    const own = (line: string) => /^x-(?:huge|odd)/i.test(line);
    expect(replay.headerLines.filter(own)).toEqual(response.headerLines.filter(own));
  });

  describe('the transaction', () => {
    it('that violates a deferred constraint at COMMIT is an error, and nothing of it is kept', async () => {
      const failed = await send('deferred-constraint');
      expect(failed.status).toBe(500);
      expect(json(failed)).toMatchObject({
        type: 'urn:nestjs-idempotency:transaction-failed',
        detail: expect.stringContaining('A deferred constraint or trigger refused'),
      });
      expect(await test.dataSource.query('select * from children')).toEqual([]);
      await expectRolledBack('deferred-constraint');
      expect(notes.get('deferred-constraint')).toEqual(['ran', 'ran', 'committed']);
      expect(await test.dataSource.query('select * from children')).toEqual([{ parent: 1 }]);
    });

    it('with an error that the handler swallowed is an error, and nothing of it is kept', async () => {
      const failed = await send('swallowed');
      expect(failed.status).toBe(500);
      expect(json(failed)).toMatchObject({
        type: 'urn:nestjs-idempotency:transaction-failed',
        detail: expect.stringContaining('A statement of the handler failed and the handler went on'),
      });
      expect(notes.get('swallowed')).toEqual(['ran', 'swallowed']);
      await expectRolledBack('swallowed');
    });

    it('survives an error that the handler swallowed in a transaction of its own', async () => {
      const response = await send('swallowed-in-savepoint');
      expect(response.status).toBe(201);
      expect(notes.get('swallowed-in-savepoint')).toEqual(['ran', 'swallowed']);
      expect(await effects('swallowed-in-savepoint')).toBe(1);
    });

    it.each([
      'commit',
      'COMMIT;',
      ' end ',
      'rollback',
      'Rollback work',
      'abort',
      'begin',
      'start transaction',
      "prepare transaction 'x'",
      '-- done\ncommit',
      '/* done */ commit',
    ])('cannot be ended by the handler: %j is refused', async (sql) => {
      const label = `transaction control: ${sql.replaceAll('\n', ' ')}`;
      const failed = await send('transaction-control', { sql }, label);
      expect(failed.status).toBe(500);
      expect(notes.get(label)).toEqual(['ran', expect.stringContaining('would end the transaction')]);
      expect([await effects(label), await isStored(label)]).toEqual([0, false]);
    });

    it('may have savepoints of the handler', async () => {
      const label = 'own savepoints';
      const sql = 'savepoint a; select 1; rollback to savepoint a; release savepoint a';
      expect((await send('transaction-control', { sql }, label)).status).toBe(201);
      expect([await effects(label), await isStored(label)]).toEqual([1, true]);
    });
  });

  describe('afterCommit', () => {
    it('runs once the key is recorded, whatever another callback does, and not for a replay', async () => {
      const logged: string[] = [];
      Logger.overrideLogger({
        log: () => undefined,
        warn: () => undefined,
        error: (...parts: unknown[]) => void logged.push(inspect(parts)),
      });
      broken = false;
      const response = await send('after-commit');
      expect(response.status).toBe(201);
      await waitFor(() => notes.get('after-commit')?.length === 2, { what: 'the callbacks' });
      expect(await send('after-commit')).toEqual(replayOf(response));
      expect(notes.get('after-commit')).toEqual(['ran', 'committed: 1']);
      expect(logged).toEqual([expect.stringContaining('a callback threw')]);
    });

    it('does not run after a rollback', async () => {
      const label = 'after-commit, failing';
      expect((await send('after-commit', {}, label)).status).toBe(500);
      broken = false;
      expect((await send('after-commit', {}, label)).status).toBe(201);
      await waitFor(() => notes.get(label)?.includes('committed: 1'), { what: 'the callback of the second run' });
      expect(notes.get(label)).toEqual(['ran', 'ran', 'committed: 1']);
    });
  });

  describe('IdempotencyContext', () => {
    it('tells key, scope and attempt, and its manager works in the transaction', async () => {
      expect((await send('context', {}, '"a \\\\ key"')).status).toBe(500);
      expect(await effects('"a \\\\ key"')).toBe(0);
      broken = false;
      const response = await send('context', {}, '"a \\\\ key"');
      expect(json(response)).toEqual({ key: 'a \\ key', scope: 'a scope', attempt: 1 });
      expect(await effects('"a \\\\ key"')).toBe(1);
    });

    it('is undefined where the request has no key', async () => {
      const response = await test.request({
        method: 'POST',
        path: '/context',
        headers: [['Content-Type', 'application/json']],
        body: '{}',
      });
      expect(json(response)).toEqual({ context: 'none' });
    });
  });

  it('keeps what is written outside the transaction when it is rolled back', async () => {
    expect((await send('outside')).status).toBe(500);
    expect([await effects('outside'), await effects('outside: audit')]).toEqual([0, 1]);
    await expectRolledBack('outside');
    expect(await effects('outside: audit')).toBe(2);
  });

  describe('a client that goes away', () => {
    const disconnect = async (path: string) => {
      const { destroy, response } = await openRequest(test.port, {
        method: 'POST',
        path: `/${path}`,
        headers: [
          ['Content-Type', 'application/json'],
          ['Idempotency-Key', path],
        ],
        body: JSON.stringify({ label: path }),
      });
      await gates.entered(path);
      const sockets = async () => {
        const counts = test.instances.map(
          ({ app }) =>
            new Promise<number>((resolve) => app.getHttpServer().getConnections((_: unknown, n: number) => resolve(n))),
        );
        return (await Promise.all(counts)).reduce((sum, count) => sum + count);
      };
      const before = await sockets();
      destroy();
      await waitFor(async () => (await sockets()) < before, { what: 'the server to notice' });
      gates.open(path);
      return response.catch((error: Error) => error.message);
    };

    it.each([
      ['JSON', 'slow-json', '{"label":"slow-json","text":"of the first run"}'],
      ['an Observable', 'slow-observable', '{"label":"slow-observable","text":"of the first run"}'],
      ['a stream', 'slow-stream', 'of the first run'],
      ['@Res()', 'slow-res', 'of the first run'],
    ])('does not cancel the operation, and gets the replay when it comes again: %s', async (_, path, body) => {
      expect(await disconnect(path)).toContain('Received 0 bytes'); // nothing leaves before COMMIT
      await waitFor(() => isStored(path), { what: 'the response to be recorded' });
      const replay = await send(path);
      expect(replay).toMatchObject({
        status: 201,
        headerLines: expect.arrayContaining(['Idempotency-Replayed: true']),
      });
      expect(replay.body.toString()).toBe(body);
      expect(await effects(path)).toBe(1);
      expect(notes.get(path)).toEqual(['ran']);
    });

    it('does not cancel the operation when its response is too large to keep, and lets go of the stream', async () => {
      await disconnect('large-stream');
      await waitFor(() => isStored('large-stream'), { what: 'the tombstone' });
      await waitFor(() => notes.get('large-stream')?.includes('stream closed'), { what: 'the stream to be closed' });
      expect(json(await send('large-stream'))).toMatchObject({
        type: 'urn:nestjs-idempotency:response-not-kept',
        original_status: 201,
      });
      expect(await effects('large-stream')).toBe(1);
      expect(notes.get('large-stream')).toEqual(['ran', 'stream closed']);
    });
  });

  it('goes to the framework where an exception filter fails, also when the route is run again', async () => {
    const path = 'broken-when-run-again';
    expect((await send(path)).status).toBe(500);
    expect(notes.get(path)).toEqual(['ran', 'ran']);
    await expectRolledBack(path);
  });

  describe('an outer interceptor', () => {
    it('that tries again has each run roll back but the last, which is recorded as if it were the only one', async () => {
      const response = await send('outer-retries');
      expect(response.status).toBe(201);
      expect(json(response)).toEqual({ run: 3 });
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect([lines(response, 'Link'), lines(response, 'Retry-After')]).toEqual([[], []]); // of the second run's error
      const replay = await send('outer-retries');
      expect(replay).toEqual(replayOf(response));
      expect(lines(replay, 'Content-Type')).toEqual(lines(response, 'Content-Type'));
      expect(await effects('outer-retries')).toBe(1);
      expect(notes.get('outer-retries')).toEqual(['ran', 'ran', 'ran']);
    });

    it('that tries again gives the next run its own time limit, and nothing of the one that failed', async () => {
      const response = await send('outer-retries-slowly');
      expect([response.statusLine, json(response)]).toEqual(['HTTP/1.1 201 Created', { run: 2 }]);
      const replay = await send('outer-retries-slowly');
      expect(replay).toEqual(replayOf(response));
      for (const answer of [response, replay]) {
        expect(['X-Order', 'X-Failed', 'Cache-Control'].map((name) => lines(answer, name))).toEqual([
          ['one'],
          [],
          ['no-store'],
        ]);
      }
      expect(await effects('outer-retries-slowly')).toBe(1);
      expect(notes.get('outer-retries-slowly')).toEqual(['ran', 'ran']);
    });

    it('that gives a run up and tries again has only the second one answer', async () => {
      const label = 'outer-gives-up-and-retries';
      const trying = send(label);
      await gates.entered(`run 1 of ${label}`);
      gates.open(`time limit of ${label}`);
      await gates.entered(`run 2 of ${label}`);
      gates.open(`run 1 of ${label}`);
      await waitFor(() => notes.get(label)!.includes('run 1 answered'), {
        what: 'the answer of the run that was given up',
      });
      gates.open(`run 2 of ${label}`);
      const response = await trying;
      expect([response.status, json(response)]).toEqual([201, { run: 2 }]);
      expect(await send(label)).toEqual(replayOf(response));
      expect(await effects(label)).toBe(1);
    });

    it('that tries again after the connection was lost gets an answer of its own, though the route stores errors', async () => {
      const label = 'outer-retries-lost-connection';
      const trying = send(label);
      await gates.entered(label);
      const locks = `select 1 from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`;
      await waitFor(async () => ((await test.dataSource.query(locks)) as unknown[]).length === 0, {
        what: 'a free key',
      });
      gates.open(label);
      const response = await trying;
      expect([response.status, json(response)]).toEqual([201, { label }]);
      expect(lines(response, 'Idempotency-Replayed')).toEqual([]);
      const replay = await send(label);
      expect(replay).toEqual(replayOf(response));
      expect([lines(response, 'X-Order'), lines(replay, 'X-Order')]).toEqual([['one'], ['one']]);
      expect(await effects(label)).toBe(1);
    });

    it('that tries again when another request has completed the key gives its response', async () => {
      const label = 'outer-retries-later';
      const trying = send(label);
      await gates.entered(label);
      broken = false;
      const other = await send(label);
      expect(other.status).toBe(201);
      gates.open(label);
      expect(await trying).toEqual(replayOf(other));
      expect(await effects(label)).toBe(1);
      expect(notes.get(label)).toEqual(['ran', 'ran']);
    });

    it('that tries again after a problem has nothing of it in the answer, not even in one with the same status', async () => {
      const failing = send('slow-failing', {}, 'tried later');
      await gates.entered('tried later');
      const trying = test.post('/outer-tries-later', 'tried later', { label: 'tries later' });
      await gates.entered('tries later'); // after 409: the key is in flight
      gates.open('tried later');
      expect((await failing).status).toBe(500);
      gates.open('tries later');
      const response = await trying;
      expect([response.status, json(response)]).toEqual([409, { label: 'tries later' }]);
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect([lines(response, 'Link'), lines(response, 'Retry-After')]).toEqual([[], []]);
      const replay = await test.post('/outer-tries-later', 'tried later', { label: 'tries later' });
      expect(replay).toEqual(replayOf(response));
      expect(notes.get('tries later')).toEqual(['ran']);
    });

    it.each(['outer-repeats', 'outer-subscribes-twice'])(
      'that wants a second run beside the first gets none: %s',
      async (path) => {
        const response = await send(path);
        expect(response.status).toBe(409);
        expect((notes.get(path) ?? []).length).toBeLessThan(2);
        await expectRolledBack(
          path,
          onceFree(() => send(path)),
        );
      },
    );

    it.each(['outer-first', 'outer-take', 'in-time'])('may turn away once it has the value: %s', async (path) => {
      const response = await send(path);
      expect(json(response)).toEqual({ label: path });
      expect(await send(path)).toEqual(replayOf(response));
      expect(await effects(path)).toBe(1);
    });

    it('that answers without the handler leaves no trace, and the key is free', async () => {
      expect(json(await send('outer-cached'))).toEqual({ cached: true });
      await expectRolledBack('outer-cached');
    });

    it('that puts a value in the place of an error has that sent, not stored', async () => {
      const response = await send('outer-catches');
      expect(response.status).toBe(201);
      expect(json(response)).toEqual({ instead: 'rolled back' });
      await expectRolledBack('outer-catches');
    });

    it('that puts a value in the place of a problem has it sent without the headers of the problem', async () => {
      broken = false;
      await send('outer-catches', {}, 'caught');
      const response = await send('outer-catches', { other: true }, 'caught');
      expect(response.status).toBe(201);
      expect(json(response)).toMatchObject({ instead: expect.stringContaining('used before with another') });
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect(lines(response, 'Link')).toEqual([]);
    });

    it('that puts another error in the place of a problem has it sent without the headers of the problem', async () => {
      await send('outer-translates');
      const response = await send('outer-translates', { other: true });
      expect(response.status).toBe(418);
      expect(json(response)).toEqual({ translated: true });
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect(lines(response, 'Link')).toEqual([]);
    });

    it('that has answered by itself keeps the handler from running: nothing could be held back', async () => {
      expect((await send('outer-answers')).status).toBe(202);
      expect(notes.get('outer-answers')).toBeUndefined();
      expect(await isStored('outer-answers')).toBe(false);
    });

    it('that gives up on a request which waits for another one leaves the key free when that one fails', async () => {
      const failing = send('slow-failing');
      await gates.entered('slow-failing');
      const waiting = test.post('/waiting', 'slow-failing', { label: 'gives up' });
      gates.open('time limit of gives up');
      expect((await waiting).status).toBe(408);
      gates.open('slow-failing');
      expect((await failing).status).toBe(500);
      await expectRolledBack(
        'slow-failing',
        onceFree(() => send('slow-failing')),
      );
      expect(notes.get('gives up')).toBeUndefined();
    });

    it('finds the handler in the asynchronous context that it has called it in', async () => {
      const response = await send('in-context');
      expect(json(response)).toEqual({ before: 'the outer interceptor', after: 'the outer interceptor' });
    });
  });
});
