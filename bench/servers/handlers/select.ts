import { Controller, HttpCode, Post } from '@nestjs/common';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

@Controller('operations')
class OperationsController {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post()
  @HttpCode(201)
  find(): Promise<Effect | null> {
    return this.effects.findOneBy({ id: 1 });
  }
}

export const app: VariantApp = {
  imports: [TypeOrmModule.forFeature([Effect])],
  controllers: [OperationsController],
  ddl: [`insert into effects (label) values ('x')`],
};
