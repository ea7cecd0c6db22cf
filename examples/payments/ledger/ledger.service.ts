import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { LedgerEntry } from './ledger-entry.entity.js';

@Injectable()
export class LedgerService {
  constructor(@InjectRepository(LedgerEntry) private readonly entries: Repository<LedgerEntry>) {}

  async book(paymentId: string, amount: number): Promise<void> {
    await this.entries.save({ paymentId, amount });
  }

  list(): Promise<LedgerEntry[]> {
    return this.entries.find({ order: { id: 'ASC' } });
  }
}
