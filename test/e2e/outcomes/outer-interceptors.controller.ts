import { AsyncLocalStorage } from 'node:async_hooks';
import {
  Body,
  type CallHandler,
  Controller,
  type ExecutionContext,
  HttpException,
  Injectable,
  type NestInterceptor,
  Post,
  RequestTimeoutException,
  UseInterceptors,
} from '@nestjs/common';
import {
  catchError,
  first as firstValue,
  from,
  merge,
  mergeMap,
  Observable,
  of,
  repeat,
  take,
  throwError,
  timeout,
} from 'rxjs';
import { Idempotent } from '../../../src/index.js';
import { type AnyResponse, gates, type Labelled, labelOf, Ledger, outer, rawOf, stage } from './stage.js';

const caller = new AsyncLocalStorage<string>();

@Injectable()
class AsyncContext implements NestInterceptor {
  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return caller.run('the outer interceptor', () => next.handle());
  }
}

@Controller()
export class OuterInterceptors {
  constructor(private readonly ledger: Ledger) {}

  @Post('outer-repeats')
  @Idempotent()
  @UseInterceptors(outer((handled) => (stage.broken ? handled.pipe(repeat(2)) : handled)))
  outerRepeats(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-subscribes-twice')
  @Idempotent()
  @UseInterceptors(outer((handled) => (stage.broken ? merge(handled, handled) : handled)))
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
  @UseInterceptors(outer((handled) => (stage.broken ? of({ cached: true }) : handled)))
  outerCached(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('outer-catches')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(catchError((error: Error) => of({ instead: error.message })))))
  async outerCatches(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (stage.broken) {
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

  @Post('in-time')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(timeout(20_000))))
  inTime(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }
}
