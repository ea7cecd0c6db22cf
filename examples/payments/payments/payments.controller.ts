import { setTimeout as delay } from 'node:timers/promises';
import { Body, Controller, Get, HttpStatus, Param, ParseUUIDPipe, Post, Query } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import type { Payment } from './payment.entity.js';
import { CreatePaymentDto, CreateRefundDto, TroubleDto } from './payments.dto.js';
import { PaymentsService } from './payments.service.js';

@Controller('payments')
export class PaymentsController {
  constructor(private readonly payments: PaymentsService) {}

  /** A declined payment is an outcome like any other: the retry is told the same, and the bank is not asked again. */
  @Post()
  @Idempotent({ storeErrors: (status) => status === HttpStatus.PAYMENT_REQUIRED })
  async create(@Body() body: CreatePaymentDto, @Query() trouble: TroubleDto) {
    const payment = await this.payments.create(body);
    await delay(trouble.delay_ms ?? 0);
    if (trouble.fail === 'after-write') throw new Error('Failed after the write, as asked for');
    return toResponse(payment);
  }

  @Post(':id/refunds')
  @Idempotent()
  async refund(@Param('id', ParseUUIDPipe) paymentId: string, @Body() { amount }: CreateRefundDto) {
    const refund = await this.payments.refund(paymentId, amount);
    return { refund_id: refund.id, payment_id: paymentId, amount, created_at: refund.createdAt };
  }

  @Get()
  async list() {
    const payments = await this.payments.list();
    return payments.map(toResponse);
  }
}

function toResponse({ id, amount, currency, destination, status, createdAt }: Payment) {
  return { payment_id: id, amount, currency, destination, status, created_at: createdAt };
}
