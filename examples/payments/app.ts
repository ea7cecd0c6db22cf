import multipart from '@fastify/multipart';
import { ValidationPipe, type INestApplication, type NestApplicationOptions } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { AppModule } from './app.module.js';

export type Adapter = 'express' | 'fastify';

export interface PaymentsAppOptions {
  adapter: Adapter;
  databaseUrl: string;
  /** Of the service that verifies users. */
  providerUrl: string;
}

/** The application, ready for `listen()`. */
export async function createPaymentsApp(options: PaymentsAppOptions): Promise<INestApplication> {
  const settings: NestApplicationOptions = { logger: ['error', 'warn'], abortOnError: false };
  const module = AppModule.register(options);
  let app: INestApplication;
  if (options.adapter === 'fastify') {
    const fastify = await NestFactory.create<NestFastifyApplication>(module, new FastifyAdapter(), settings);
    await fastify.register(multipart, { attachFieldsToBody: true });
    app = fastify;
  } else {
    app = await NestFactory.create(module, new ExpressAdapter(), settings);
  }
  return app.useGlobalPipes(new ValidationPipe({ transform: true, whitelist: true }));
}
