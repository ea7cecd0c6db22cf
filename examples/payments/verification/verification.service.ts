import { Injectable, NotFoundException } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import type { IdempotencyContext, Serialized } from '../../../src/index.js';
import { ProviderClient } from '../provider/provider.client.js';
import type { CreateSessionDto, VerificationEventDto } from './verification.dto.js';
import { VerificationSession, type VerificationStatus } from './verification-session.entity.js';

@Injectable()
export class VerificationService {
  constructor(
    @InjectRepository(VerificationSession) private readonly sessions: Repository<VerificationSession>,
    private readonly provider: ProviderClient,
  ) {}

  /**
   * Three steps, each remembered: a retry after a failure or a crash goes on after the last one that has finished. No
   * transaction is open while the provider takes its time.
   */
  async open(
    { user_id: userId, workflow_id: workflowId }: CreateSessionDto,
    idempotency: IdempotencyContext,
  ): Promise<Serialized<VerificationSession>> {
    const { id } = await idempotency.transaction('create session', () =>
      this.sessions.save({ userId, workflowId, status: 'CREATED' as const, history: ['CREATED' as const] }),
    );

    // When we die, or the connection does, before its answer is stored, this step runs again. The provider then finds
    // the same key, and has no second session.
    const provided = await idempotency.step('call provider', () =>
      this.provider.createSession(
        { workflow_id: workflowId, reference: id },
        { idempotencyKey: idempotency.downstreamKey('call provider'), signal: idempotency.signal },
      ),
    );

    return idempotency.transaction('record result', async () => {
      const { session_id: providerSessionId, url } = provided;
      return this.enter('PENDING', Object.assign(await this.locked({ id }), { providerSessionId, url }));
    });
  }

  async apply({ session_id: providerSessionId, status }: VerificationEventDto): Promise<VerificationSession> {
    return this.enter(status, await this.locked({ providerSessionId }));
  }

  async get(id: string): Promise<VerificationSession> {
    const session = await this.sessions.findOneBy({ id });
    if (!session) throw new NotFoundException(`There is no verification session ${id}`);
    return session;
  }

  private async locked(where: { id: string } | { providerSessionId: string }): Promise<VerificationSession> {
    const session = await this.sessions.findOne({ where, lock: { mode: 'pessimistic_write' } });
    if (!session) throw new NotFoundException('There is no such verification session');
    return session;
  }

  private enter(status: VerificationStatus, session: VerificationSession): Promise<VerificationSession> {
    return this.sessions.save(Object.assign(session, { status, history: [...session.history, status] }));
  }
}
