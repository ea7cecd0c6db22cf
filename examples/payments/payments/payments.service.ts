import { ConflictException, HttpException, HttpStatus, Injectable, NotFoundException } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { LedgerService } from '../ledger/ledger.service.js';
import { Payment } from './payment.entity.js';
import type { CreatePaymentDto } from './payments.dto.js';
import { Refund } from './refund.entity.js';

/** What this bank lets through, in minor units. */
const LIMIT = 10_000;

/**
 * Ordinary NestJS: nothing in here knows of idempotency keys or transactions. Below a handler that is `@Idempotent()`
 * all of it is part of that handler's transaction.
 */
@Injectable()
export class PaymentsService {
  constructor(
    @InjectRepository(Payment) private readonly payments: Repository<Payment>,
    @InjectRepository(Refund) private readonly refunds: Repository<Refund>,
    private readonly ledger: LedgerService,
  ) {}

  async create({ amount, currency, destination }: CreatePaymentDto): Promise<Payment> {
    if (amount > LIMIT) {
      throw new HttpException(`Declined: amount is over ${LIMIT}`, HttpStatus.PAYMENT_REQUIRED);
    }
    const payment = await this.payments.save({ amount, currency, destination, status: 'PENDING' });
    await this.ledger.book(payment.id, amount);
    return payment;
  }

  async refund(paymentId: string, amount: number): Promise<Refund> {
    // Locked, so that two refunds of one payment see each other.
    const payment = await this.payments.findOne({ where: { id: paymentId }, lock: { mode: 'pessimistic_write' } });
    if (!payment) throw new NotFoundException(`There is no payment ${paymentId}`);
    const refunded = (await this.refunds.sum('amount', { paymentId })) ?? 0;
    if (refunded + amount > payment.amount) {
      throw new ConflictException(`Only ${payment.amount - refunded} of ${payment.amount} are left to refund`);
    }
    const refund = await this.refunds.save({ paymentId, amount });
    await this.ledger.book(paymentId, -amount);
    return refund;
  }

  list(): Promise<Payment[]> {
    return this.payments.find({ order: { createdAt: 'ASC' } });
  }
}
