import { ConflictException, Controller, HttpCode, Post, Query, UseInterceptors } from '@nestjs/common';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { IdempotencyContext, IdempotencyService, Idempotent } from '../../../src/index.js';
import { behindTheBack } from '../../support/behind-the-back.js';
import { Effect } from '../../support/effect.entity.js';
import { Books, Orders, Outbox, Script, StopOutside } from './shop.js';

@Controller()
@Idempotent()
export class Shop {
  constructor(
    private readonly orders: Orders,
    private readonly outbox: Outbox,
    private readonly books: Books,
    private readonly script: Script,
    private readonly idempotency: IdempotencyService,
    @InjectDataSource() private readonly dataSource: DataSource,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
  ) {}

  @Post('order')
  async order() {
    await this.orders.place();
    await this.outbox.announce();
    await this.books.post();
    if (this.script.fails) throw new ConflictException('failed as asked');
    return { placed: true };
  }

  @Post('plain')
  async plain() {
    await this.orders.place();
    await this.books.post();
    return { placed: true };
  }

  @Post('server-error')
  @HttpCode(500)
  async serverError() {
    await this.orders.place();
    return { status: 'returned, but not fine' };
  }

  @Post('parallel')
  async parallel() {
    const outcomes = await Promise.allSettled([
      ...Array.from({ length: 10 }, () => this.orders.place()),
      ...Array.from({ length: 3 }, () => this.outbox.announce()),
      ...Array.from({ length: 10 }, () => this.books.post()),
      this.dataSource.transaction(async (manager) => {
        await Promise.all([this.orders.place(), manager.insert(Effect, { label: 'undone' })]);
        throw new Error('undo');
      }),
      this.effects.find(),
      this.idempotency.find('some other key'),
    ]);
    return { rejected: outcomes.filter(({ status }) => status === 'rejected').length };
  }

  @Post('swallow')
  async swallow() {
    await this.orders.place();
    await this.dataSource.query('select 1 / 0').catch(() => undefined);
    return { fine: 'not really' };
  }

  @Post('commit')
  async commit() {
    await this.orders.place();
    await behindTheBack(this.dataSource, 'commit');
    return { fine: 'not really' };
  }

  @Post('deallocate')
  async deallocate() {
    await this.orders.place();
    await this.dataSource.query('deallocate all');
    return { placed: true };
  }

  @Post('stop')
  async stop(@Query('then') then: 'write' | 'return') {
    await this.orders.place();
    await this.script.stopAt(await this.books.backend());
    if (then === 'write') await this.orders.place();
    return { placed: true };
  }

  @Post('sleep')
  async sleep() {
    await this.orders.place();
    const pid = await this.books.backend();
    const sleeping = this.dataSource.query('select pg_sleep(60)');
    await this.script.stopAt(pid);
    await sleeping;
  }

  @Post('stop-outside')
  @UseInterceptors(StopOutside)
  @Idempotent()
  async stopOutside() {
    await this.orders.place();
    return { pid: await this.books.backend() };
  }

  @Post('impatient')
  @Idempotent({ timeoutMs: 100 })
  async impatient() {
    await this.orders.place();
    if (this.script.fails) await deferred().promise;
    return { placed: true };
  }

  @Post('leave-running')
  async leaveRunning(@IdempotencyContext() context: IdempotencyContext) {
    await this.orders.place();
    const { manager } = context;
    const go = this.script.arrived();
    this.script.late = go.then(() =>
      Promise.allSettled([
        this.orders.place(),
        this.outbox.announce(),
        this.books.post(),
        manager.save(Effect, { label: 'by the manager' }),
        manager.transaction((nested) => nested.save(Effect, { label: 'by its transaction' })),
      ]),
    );
    if (this.script.fails) throw new ConflictException('failed as asked');
    return { placed: true };
  }

  @Post('settings')
  async settings() {
    const [settings] = await this.dataSource.query<Record<string, string>[]>(
      `select current_setting('synchronous_commit') as "synchronousCommit",
         current_setting('transaction_isolation') as isolation, current_setting('bytea_output') as "byteaOutput"`,
    );
    await this.orders.place();
    await this.outbox.announce();
    this.script.seen = settings;
    return { bytes: '\u0000\u00ff\\' };
  }
}
