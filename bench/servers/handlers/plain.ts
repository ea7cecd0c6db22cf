import { Body, Controller, Post } from '@nestjs/common';
import type { VariantApp } from '../variant-app.js';

@Controller('operations')
class OperationsController {
  @Post()
  create(@Body() body: unknown): unknown {
    return body;
  }
}

export const app: VariantApp = { controllers: [OperationsController] };
