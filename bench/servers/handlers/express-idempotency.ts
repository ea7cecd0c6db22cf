import { Body, Controller, Inject, Post, Req, Res } from '@nestjs/common';
import { getSharedIdempotencyService, idempotency } from 'express-idempotency';
import { DataSource } from 'typeorm';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

type Request = Parameters<ReturnType<typeof getSharedIdempotencyService>['isHit']>[0];
interface Response {
  status(code: number): { json(body: unknown): void };
}

@Controller('operations')
class OperationsController {
  constructor(@Inject(DataSource) private readonly dataSource: DataSource) {}

  @Post()
  async create(@Body() body: unknown, @Req() request: Request, @Res() response: Response): Promise<void> {
    if (getSharedIdempotencyService().isHit(request)) {
      return; // the middleware has answered
    }
    await this.dataSource.transaction((manager) => manager.insert(Effect, { label: 'x' }));
    response.status(201).json(body);
  }
}

export const app: VariantApp = { controllers: [OperationsController], middleware: idempotency() };
