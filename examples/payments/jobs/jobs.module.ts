import { Module, type DynamicModule } from '@nestjs/common';
import { JobsController } from './jobs.controller.js';
import { DATABASE_URL, JobsService } from './jobs.service.js';

@Module({})
export class JobsModule {
  /** Global, so that whoever has work for later can have it done. */
  static register(databaseUrl: string): DynamicModule {
    return {
      module: JobsModule,
      controllers: [JobsController],
      providers: [JobsService, { provide: DATABASE_URL, useValue: databaseUrl }],
      exports: [JobsService],
      global: true,
    };
  }
}
