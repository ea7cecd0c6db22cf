/* What the excerpts of all pages leave out: imports, and the reader's own application. */
import type { DataSource, EntityManager } from 'typeorm';
import type { IdempotencyContext, IdempotencyService } from '../../../src/index.js';

export { AsyncResource } from 'node:async_hooks';
export { randomUUID } from 'node:crypto';
export { copyFile, rm } from 'node:fs/promises';
export { join } from 'node:path';
export {
  Body,
  type CallHandler,
  type CanActivate,
  Catch,
  Controller,
  type ExecutionContext,
  HttpCode,
  Injectable,
  Module,
  type NestInterceptor,
  Post,
  Req,
  UploadedFile,
  UseInterceptors,
} from '@nestjs/common';
export { FileInterceptor } from '@nestjs/platform-express';
export { DocumentBuilder, SwaggerModule } from '@nestjs/swagger';
export { Test } from '@nestjs/testing';
export { TypeOrmModule } from '@nestjs/typeorm';
export { finalize } from 'rxjs';
export { DataSource, type EntityManager } from 'typeorm';
export {
  Idempotent,
  IdempotencyContext,
  IdempotencyInterceptor,
  IdempotencyModule,
  IdempotencyService,
} from '../../../src/index.js';

/** The class whose method, or member, an excerpt is. */
export declare class Surroundings {
  readonly idempotency: IdempotencyService;
  readonly dataSource: DataSource;
  [own: string]: any;
}

export declare const app: import('@nestjs/common').INestApplication;
export declare const ctx: IdempotencyContext;
export declare const dataSource: DataSource;
export declare const manager: EntityManager;
export declare const idempotency: IdempotencyService;
export declare const key: string;
export declare const scope: string;

export declare class AppModule {}
export declare class CreatePaymentDto {
  amount: number;
}
export declare class Payment {
  id: string;
}
export declare class PaymentsService {
  create(dto: CreatePaymentDto, key?: string): Promise<Payment>;
}
export declare class PaymentsController {}
