import { Body, Catch, Controller, type ExceptionFilter, Post, UseFilters } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { IdempotencyContext, Idempotent } from '../../../src/index.js';
import { type Labelled, Ledger, note, notes, stage } from './stage.js';

/** What a deferred constraint or trigger refuses at COMMIT, the one for good, the other with 40001. */
export const REFUSED_AT_COMMIT = [
  'create table parents (id int primary key)',
  'insert into parents values (1)',
  'create table children (parent int references parents deferrable initially deferred)',
  'create table conflicts (number int)',
  `create function conflict() returns trigger language plpgsql as $$
    begin raise exception 'could not serialize' using errcode = '40001'; end $$`,
  `create constraint trigger conflict after insert on conflicts deferrable initially deferred
    for each row execute function conflict()`,
];

@Catch()
class ThrowingFilter implements ExceptionFilter {
  catch(exception: Error): void {
    throw new Error(`the filter failed on ${exception.message}`);
  }
}

@Controller()
export class Transactions {
  constructor(
    private readonly ledger: Ledger,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  @Post('deferred-constraint')
  @Idempotent({ storeErrors: () => true })
  async deferredConstraint(@Body() { label }: Labelled, @IdempotencyContext() context: IdempotencyContext) {
    context.afterCommit(() => note(label, 'committed'));
    await this.ledger.write(label);
    await this.dataSource.query('insert into children (parent) values ($1)', [stage.broken ? 2 : 1]);
    return { label };
  }

  @Post('swallowed')
  @Idempotent({ storeErrors: () => true })
  async swallowed(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await this.dataSource.query(`select 1 / ${stage.broken ? 0 : 1}`).catch(() => note(label, 'swallowed'));
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

  @Post('broken-when-run-again')
  @Idempotent({ retries: 1 })
  @UseFilters(ThrowingFilter)
  async brokenWhenRunAgain(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (stage.broken && notes.get(label)!.length > 1) {
      throw new Error('run 2');
    }
    if (stage.broken) {
      await this.dataSource.query('insert into conflicts values (1)'); // fails with 40001 at COMMIT
    }
    return { label };
  }
}
