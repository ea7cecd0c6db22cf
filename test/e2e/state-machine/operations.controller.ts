import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { Body, Controller, Headers, HttpException, Post, Res } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import { IdempotencyContext, Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { contentOf, effectsOf, MAX_BODY_BYTES, nameOf, OPERATIONS, type Payload } from './model.js';

export interface Gate {
  run: string;
  open: () => void;
  /** Resolves when the server is done with the request, whether or not its client is still there. */
  closed: Promise<unknown>;
}

export const gates = new Map<string, Gate>();

export type HoldingPlace = 'between the writes' | 'behind the writes';

/** Express' response, or Fastify's reply. */
interface AnyResponse {
  header(name: string, value: string): AnyResponse;
  status(code: number): AnyResponse;
  raw?: ServerResponse;
}

@Controller()
export class OperationsController {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('operations')
  @Idempotent({ storeErrors: (status) => status === 402, maxBodyBytes: MAX_BODY_BYTES })
  async operate(
    @Body() payload: Payload,
    @Headers('x-hold') held: string | undefined,
    @IdempotencyContext() slot: IdempotencyContext,
    @Res({ passthrough: true }) response: AnyResponse,
  ): Promise<object> {
    const run = randomUUID();
    const pass = (place: HoldingPlace): unknown =>
      held === place
        ? new Promise<void>((open) => {
            gates.set(nameOf(slot), { run, open, closed: once(response.raw ?? (response as never), 'close') });
          })
        : undefined;
    const [before, after] = effectsOf(slot, payload, run);
    const { status } = OPERATIONS[payload.operation];
    response.header('X-Run', run);
    await this.effects.save({ label: before });
    await pass('between the writes');
    await this.effects.save({ label: after });
    await pass('behind the writes');
    switch (payload.operation) {
      case 'throw':
        throw new Error('as asked');
      case 'refuse':
      case 'reject':
        throw new HttpException(contentOf(payload, run), status);
      case 'decline':
      case 'fail':
        response.status(status);
    }
    return contentOf(payload, run);
  }
}
