import { inspect } from 'node:util';
import {
  type ArgumentsHost,
  Body,
  Catch,
  ConflictException,
  Controller,
  type ExceptionFilter,
  HttpException,
  Post,
  RequestTimeoutException,
  Res,
  ServiceUnavailableException,
  UseFilters,
  UseInterceptors,
} from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { IsInt, IsString } from 'class-validator';
import { from, merge, mergeMap, of, tap, throwError } from 'rxjs';
import { DataSource } from 'typeorm';
import { Idempotent, TransactionRolledBackError } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { type AnyResponse, catchOrGiveUp, gates, type Labelled, labelOf, Ledger, note, outer, stage } from './stage.js';

@Catch()
class BrokenFilter implements ExceptionFilter {
  catch(exception: Error, host: ArgumentsHost): void {
    host.switchToHttp().getResponse<AnyResponse>().status(502).send({ filtered: exception.message });
  }
}

class Payment {
  @IsString()
  label!: string;

  @IsInt()
  amount!: number;
}

/** Knows nothing of idempotency. */
@Controller()
export class Errors {
  constructor(
    private readonly ledger: Ledger,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  @Post('thrown')
  @Idempotent()
  async thrown(@Body() { label }: Labelled) {
    const written = await this.ledger.write(label);
    if (stage.broken) {
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
    if (stage.broken) {
      throw new ServiceUnavailableException();
    }
    return written;
  }

  @Post('passthrough-500')
  @Idempotent()
  passthrough500(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    response.status(stage.broken ? 500 : 201);
    return this.ledger.write(label);
  }

  @Post('res-500')
  @Idempotent()
  async res500(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.status(stage.broken ? 500 : 201).send(await this.ledger.write(label));
  }

  @Post('filter-502')
  @UseFilters(BrokenFilter)
  @Idempotent({ storeErrors: () => true })
  async filter502(@Body() { label }: Labelled) {
    const written = await this.ledger.write(label);
    if (stage.broken) {
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
            .status(stage.broken ? 503 : 201),
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
    return stage.broken ? { amount: 1n } : written;
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
          if (stage.broken) {
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
          mergeMap(() => (stage.broken ? throwError(() => new RequestTimeoutException()) : of())),
        ),
      ),
    ),
  )
  async outerTimeout(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (stage.broken) {
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

  @Post('too-long')
  @Idempotent({ timeoutMs: 200 })
  async tooLong(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (stage.broken) {
      await gates.pass(label);
      await this.writeLate(label);
    }
    return { label };
  }
}
