import { Body, Controller, Get, HttpCode, HttpStatus, Post, Query, Res } from '@nestjs/common';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import type { HeaderWriter } from '../header-writer.js';
import { JobsService } from '../jobs/jobs.service.js';
import { CreatePaymentDto, TroubleDto } from '../payments/payments.dto.js';
import type { Payout } from './payout.entity.js';
import { PayoutsService } from './payouts.service.js';

@Controller('payouts')
export class PayoutsController {
  constructor(
    private readonly payouts: PayoutsService,
    private readonly jobs: JobsService,
  ) {}

  /**
   * Work that takes long, and must survive a crash, is a job: enqueued in the request's transaction, so that there is
   * one if and only if the payout is there. Every retry gets the id of that one job.
   */
  @Post()
  @HttpCode(HttpStatus.ACCEPTED)
  @Idempotent()
  async create(
    @Body() body: CreatePaymentDto,
    @Query() trouble: TroubleDto,
    @IdempotencyContext() idempotency: IdempotencyContext,
    @Res({ passthrough: true }) response: HeaderWriter,
  ) {
    const { payout, jobId } = await this.payouts.request(body);
    // A worker sees the job once it is committed. This may be lost, in a crash, and is then no more than a delay.
    idempotency.afterCommit(() => this.jobs.wakeWorker());
    if (trouble.fail === 'after-write') throw new Error('Failed after the write, as asked for');
    response.header('Location', `/jobs/${jobId}`);
    return { job_id: jobId, ...toResponse(payout) };
  }

  @Get()
  async list() {
    const payouts = await this.payouts.list();
    return payouts.map(toResponse);
  }
}

function toResponse({ id, amount, currency, destination, status, createdAt }: Payout) {
  return { payout_id: id, amount, currency, destination, status, created_at: createdAt };
}
