import { Body, Controller, type ExecutionContext, HttpCode, HttpStatus, Post } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import { VerificationEventDto } from './verification.dto.js';
import { VerificationService } from './verification.service.js';

/** A provider delivers an event at least once: again whenever it is unsure whether the first delivery has arrived. */
const REDELIVERY_MS = 7 * 24 * 60 * 60 * 1000;

@Controller('webhooks/verification')
export class VerificationWebhookController {
  constructor(private readonly verification: VerificationService) {}

  /**
   * A provider sends no `Idempotency-Key`; the event's id is one. Where requests are signed, as they should be, a guard
   * checks that: guards run first.
   *
   * An event may overtake our memory of the session that it is about. The answer is 404 then, which is not stored, so
   * that the next delivery finds the session.
   */
  @Post()
  @HttpCode(HttpStatus.NO_CONTENT)
  @Idempotent({
    key: eventId,
    // Event ids are the provider's, keys are our clients': the same text may be both.
    scope: () => 'verification-provider',
    // A redelivery is counted; anything else that differs under one id is a mistake of the provider's.
    fingerprint: { omit: ['attempt'] },
    ttlMs: REDELIVERY_MS,
  })
  async receive(@Body() event: VerificationEventDto): Promise<void> {
    await this.verification.apply(event);
  }
}

/** Asked before the body is validated: it can be anything. */
function eventId(context: ExecutionContext): string | undefined {
  const { body } = context.switchToHttp().getRequest<{ body?: { event_id?: unknown } | null }>();
  return typeof body?.event_id === 'string' ? body.event_id : undefined;
}
