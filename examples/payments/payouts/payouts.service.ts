import { Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { JobsService } from '../jobs/jobs.service.js';
import type { CreatePaymentDto } from '../payments/payments.dto.js';
import { Payout } from './payout.entity.js';

@Injectable()
export class PayoutsService implements OnApplicationBootstrap {
  constructor(
    @InjectRepository(Payout) private readonly payouts: Repository<Payout>,
    private readonly jobs: JobsService,
  ) {}

  onApplicationBootstrap(): Promise<void> {
    return this.jobs.work(({ payoutId }) => this.payOut(payoutId));
  }

  /** The payout and the job that pays it commit together, with the key and the response. */
  async request({ amount, currency, destination }: CreatePaymentDto): Promise<{ payout: Payout; jobId: string }> {
    const payout = await this.payouts.save({ amount, currency, destination, status: 'PENDING' as const });
    return { payout: payout as Payout, jobId: await this.jobs.enqueue({ payoutId: payout.id }) };
  }

  list(): Promise<Payout[]> {
    return this.payouts.find({ order: { createdAt: 'ASC' } });
  }

  /** A bank would be called here, with the payout's id as the key: a job that was interrupted runs again. */
  private async payOut(id: string): Promise<void> {
    await this.payouts.update({ id, status: 'PENDING' }, { status: 'PAID' });
  }
}
