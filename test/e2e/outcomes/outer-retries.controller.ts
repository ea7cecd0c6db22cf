import { Body, Controller, Header, Post, RequestTimeoutException, Res, UseInterceptors } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { defer, from, merge, mergeMap, retry, take, throwError } from 'rxjs';
import { DataSource } from 'typeorm';
import { Idempotent } from '../../../src/index.js';
import { waitFor } from '../../support/wait-for.js';
import { type AnyResponse, gates, type Labelled, labelOf, Ledger, note, notes, outer, rawOf, stage } from './stage.js';

/** Long enough for two runs, each of which takes a good part of it. */
const TIME_LIMIT_MS = 1500;

@Controller()
export class OuterRetries {
  constructor(
    private readonly ledger: Ledger,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

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
    if (stage.broken) {
      throw new Error('run 1');
    }
    return { label, large: 'x'.repeat(900_000) };
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
}
