import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { All, applyDecorators, Controller, Get, Injectable, Post, SetMetadata, type Type } from '@nestjs/common';
import { INTERCEPTORS_METADATA } from '@nestjs/common/constants.js';
import { Idempotent } from '../../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { createTestApp } from '../../support/test-app.js';

/** What `@MessagePattern()` of @nestjs/microservices leaves on a method. */
const MessagePattern = (pattern: string) =>
  applyDecorators(SetMetadata('microservices:pattern', [pattern]), SetMetadata('microservices:handler_type', 1));

@Controller()
@Idempotent()
class AllOfAClass {
  @All('all')
  all() {}
}

@Controller()
class Hybrid {
  @Post('hybrid')
  @MessagePattern('hybrid')
  @Idempotent()
  both() {}
}

@Controller()
@Idempotent()
class HybridClass {
  @Post('hybrid')
  @MessagePattern('hybrid')
  both() {}
}

@Controller()
class Messages {
  @MessagePattern('messages')
  @Idempotent()
  only() {}
}

@Controller()
class NoHandler {
  @Post('handler')
  handler() {}

  @Idempotent()
  helper() {}
}

@Injectable()
class Service {
  @Idempotent()
  create() {}
}

@Controller()
class Bereft {
  @SetMetadata(INTERCEPTORS_METADATA, [])
  @Idempotent()
  @Post('bereft')
  create() {}
}

@Controller()
class Safe {
  @Get('safe')
  @Idempotent()
  get() {}
}

describe('what cannot be idempotent', () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createTestDatabase();
  });
  afterAll(() => database.drop());

  it.each<[string, string, string, { controllers?: Type[]; providers?: Type[] }]>([
    ['@All() in a class', 'AllOfAClass.all', '@All() answers GET, too', { controllers: [AllOfAClass] }],
    ['a handler of messages, too', 'Hybrid.both', 'Give them a method of their own', { controllers: [Hybrid] }],
    [
      'such a handler in a class',
      'HybridClass.both',
      'Give them a method of their own',
      { controllers: [HybridClass] },
    ],
    ['a handler of messages', 'Messages.only', 'it answers messages', { controllers: [Messages] }],
    ['a method without a route', 'NoHandler.helper', 'it is no handler of a controller', { controllers: [NoHandler] }],
    ['a method of a service', 'Service.create', 'it is no handler of a controller', { providers: [Service] }],
    ['a handler bereft of its interceptors', 'Bereft.create', 'Put @Idempotent() above', { controllers: [Bereft] }],
    ['a safe method', 'Safe.get', 'GET is idempotent by definition', { controllers: [Safe] }],
  ])('is refused at boot, by its name and with the remedy: %s', async (_, where, why, parts) => {
    const starting = createTestApp({ adapter: 'express', databaseUrl: database.url, ...parts });
    await expect(starting).rejects.toThrow(`@Idempotent() of ${where}: `);
    await expect(createTestApp({ adapter: 'express', databaseUrl: database.url, ...parts })).rejects.toThrow(why);
  });
});
