import { Body, Controller, Post } from '@nestjs/common';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { ProviderClient } from '../provider/provider.client.js';
import { CreateWireDto } from './wires.dto.js';

@Controller('wires')
export class WiresController {
  constructor(private readonly bank: ProviderClient) {}

  /**
   * The bank knows no keys: asked twice, it pays twice. So nobody goes on by himself after a crash (`'fail'`): a retry gets
   * 409 until a person has looked up what the bank did, and resolves or releases the operation.
   */
  @Post()
  @Idempotent({ mode: 'lease', leaseMs: 2_000, onInterrupted: 'fail' })
  async send(@Body() body: CreateWireDto, @IdempotencyContext() { step, signal }: IdempotencyContext) {
    return step('send wire', () => this.bank.sendWire(body, { signal }));
  }
}
