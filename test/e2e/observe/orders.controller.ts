import { Body, ConflictException, Controller, Injectable, Post, Query, Res } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { ServerResponse } from 'node:http';
import type { Repository } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { deferred } from '../../../src/util/deferred.js';
import { Effect } from '../../support/effect.entity.js';

/** Holds handlers that are to wait, by label. */
@Injectable()
export class Gate {
  private readonly gates = new Map<string, ReturnType<typeof deferred<void>>>();
  readonly arrived: string[] = [];

  close(label: string): void {
    this.gates.set(label, deferred<void>());
  }

  open(label: string): void {
    this.gates.get(label)?.resolve();
    this.gates.delete(label);
  }

  async pass(label: string): Promise<void> {
    this.arrived.push(label);
    await this.gates.get(label)?.promise;
  }
}

interface Order {
  label: string;
}

@Controller('orders')
export class OrdersController {
  constructor(
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    private readonly gate: Gate,
  ) {}

  @Post()
  @Idempotent()
  async create(@Body() { label }: Order): Promise<Effect> {
    const effect = await this.effects.save({ label });
    await this.gate.pass(label);
    return effect;
  }

  @Post('optional')
  @Idempotent({ required: false })
  optional(@Body() { label }: Order): Promise<Effect> {
    return this.create({ label });
  }

  @Post('waiting')
  @Idempotent({ inFlight: { waitMs: 5_000 } })
  waiting(@Body() { label }: Order): Promise<Effect> {
    return this.create({ label });
  }

  @Post('failing')
  @Idempotent({ storeErrors: (status) => status === 409 })
  async failing(@Body() { label }: Order, @Query('status') status: string): Promise<never> {
    await this.effects.save({ label });
    throw status === '409' ? new ConflictException('sold out') : new Error('broken');
  }

  @Post('large')
  @Idempotent({ maxBodyBytes: 10 })
  large(@Body() { label }: Order): string {
    return label.padEnd(11, '.');
  }

  @Post('streamed')
  @Idempotent()
  async streamed(@Body() { label }: Order, @Res() response: ServerResponse & { raw?: ServerResponse }): Promise<void> {
    const raw = response.raw ?? response;
    raw.writeHead(201, { 'Content-Type': 'text/plain' });
    raw.write('begun ');
    await this.gate.pass(label);
    raw.end('done');
  }

  @Post('context')
  @Idempotent()
  async context(@IdempotencyContext() ctx: IdempotencyContext): Promise<object> {
    const chosen = await ctx.step('choose', () => 'by a step');
    return { key: ctx.key, scope: ctx.scope, attempt: ctx.attempt, chosen, downstream: ctx.downstreamKey('charge') };
  }
}
