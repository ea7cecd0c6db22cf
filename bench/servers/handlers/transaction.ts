import { Body, Controller, Inject, Post } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

@Controller('operations')
class OperationsController {
  constructor(@Inject(DataSource) private readonly dataSource: DataSource) {}

  @Post()
  async create(@Body() body: unknown): Promise<unknown> {
    await this.dataSource.transaction((manager) => manager.insert(Effect, { label: 'x' }));
    return body;
  }
}

export const app: VariantApp = { controllers: [OperationsController] };
