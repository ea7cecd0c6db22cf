import { Module, type DynamicModule } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Adapter } from '../app.js';
import { ExpressUploadsController } from './express-uploads.controller.js';
import { FastifyUploadsController } from './fastify-uploads.controller.js';
import { Upload } from './upload.entity.js';
import { UploadsService } from './uploads.service.js';

@Module({})
export class UploadsModule {
  /** Reading a multipart form is the one thing that the two frameworks do each in their own way. */
  static register(adapter: Adapter): DynamicModule {
    return {
      module: UploadsModule,
      imports: [TypeOrmModule.forFeature([Upload])],
      controllers: [adapter === 'fastify' ? FastifyUploadsController : ExpressUploadsController],
      providers: [UploadsService],
    };
  }
}
