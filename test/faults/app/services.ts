import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { LEASE_LIMITS } from '../routes.js';
import { Account, Booking, Effect, Posting } from './entities.js';

/** A service as users write it: it knows nothing of idempotency, and its repository must join the transaction by itself. */
@Injectable()
export class LedgerService {
  constructor(
    @InjectRepository(Posting) private readonly postings: Repository<Posting>,
    @InjectRepository(Account) private readonly accounts: Repository<Account>,
  ) {}

  /** save() opens a transaction of its own: within the request's, a savepoint. */
  async post(nonce: string, amount: number): Promise<void> {
    await this.postings.save({ nonce, account: 'sales', amount });
  }

  async deposit(account: string, amount: number): Promise<void> {
    const { balance } = await this.accounts.findOneByOrFail({ id: account });
    await this.accounts.update({ id: account }, { balance: balance + amount });
  }

  /** A statement that fails, and an application that goes on as if it had not. */
  async failQuietly(): Promise<void> {
    await this.postings.query('select 1 / 0').catch(() => undefined);
  }

  async resetSession(): Promise<void> {
    await this.postings.query('reset all');
  }

  /** A lock that nobody frees; `name` is a UUID, so that nobody else waits for it. */
  async lockSession(name: string): Promise<void> {
    await this.postings.query('select pg_advisory_lock(hashtextextended($1, 0))', [name]);
  }

  /** Keeps all connections of the pool busy with other work, or finds others at the same, and no connection in time. */
  async starve(connections: number, ms: number): Promise<void> {
    await Promise.allSettled(Array.from({ length: connections }, () => this.rest(ms)));
  }

  async rest(ms: number): Promise<void> {
    await this.postings.query('select pg_sleep($1::float8 / 1000)', [ms]);
  }
}

@Injectable()
export class PaymentsService {
  constructor(
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    private readonly ledger: LedgerService,
  ) {}

  async pay(key: string, amount: number): Promise<{ nonce: string; amount: number; note: string }> {
    const nonce = randomUUID();
    await this.effects.insert({ nonce, key, amount });
    await this.ledger.post(nonce, amount);
    return { nonce, amount, note: 'grüße, 你好' }; // bytes that no careless re-encoding survives
  }
}

/** The writes of a transaction step. */
@Injectable()
export class BookingsService {
  constructor(
    @InjectRepository(Booking) private readonly bookings: Repository<Booking>,
    private readonly ledger: LedgerService,
  ) {}

  async book(key: string, amount: number): Promise<{ nonce: string; amount: number }> {
    const nonce = randomUUID();
    await this.bookings.insert({ nonce, key, amount });
    return { nonce, amount };
  }

  async starve(ms: number): Promise<void> {
    await this.ledger.starve(this.bookings.manager.connection.options.poolSize ?? 10, ms);
  }

  /** Reads what others write, and takes longer than a lease now and then. */
  async bookApart(key: string, amount: number, restMs: number): Promise<{ nonce: string; amount: number }> {
    const booking = await this.book(key, amount);
    await this.ledger.deposit(`lease-${amount % LEASE_LIMITS.accounts}`, amount);
    await this.ledger.rest(restMs);
    return booking;
  }
}
