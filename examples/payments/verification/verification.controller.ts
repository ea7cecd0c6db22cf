import { Body, Controller, Get, Param, ParseUUIDPipe, Post } from '@nestjs/common';
import { Idempotent, IdempotencyContext, type Serialized } from '../../../src/index.js';
import { CreateSessionDto } from './verification.dto.js';
import { VerificationService } from './verification.service.js';
import type { VerificationSession } from './verification-session.entity.js';

@Controller('verification/sessions')
export class VerificationController {
  constructor(private readonly verification: VerificationService) {}

  /**
   * Lease mode, because a transaction cannot undo what the provider has done, and should not be open while it takes its
   * time. After a crash a retry is told to wait (409) until the lease of 10 s has run out, and then goes on.
   */
  @Post()
  @Idempotent({ mode: 'lease', leaseMs: 10_000 })
  async create(@Body() body: CreateSessionDto, @IdempotencyContext() idempotency: IdempotencyContext) {
    return toResponse(await this.verification.open(body, idempotency));
  }

  @Get(':id')
  async get(@Param('id', ParseUUIDPipe) id: string) {
    return toResponse(await this.verification.get(id));
  }
}

function toResponse(session: VerificationSession | Serialized<VerificationSession>) {
  return {
    session_id: session.id,
    user_id: session.userId,
    workflow_id: session.workflowId,
    provider_session_id: session.providerSessionId,
    url: session.url,
    status: session.status,
    history: session.history,
    created_at: session.createdAt,
  };
}
