import { Controller, Get } from '@nestjs/common';
import { LedgerService } from './ledger.service.js';

@Controller('ledger')
export class LedgerController {
  constructor(private readonly ledger: LedgerService) {}

  @Get()
  async list() {
    const entries = await this.ledger.list();
    return entries.map(({ id, paymentId, amount, createdAt }) => ({
      entry_id: id,
      payment_id: paymentId,
      amount,
      created_at: createdAt,
    }));
  }
}
