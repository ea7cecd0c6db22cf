import { once } from 'node:events';
import http2 from 'node:http2';
import { describe, expect, it } from '@jest/globals';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { IdempotencyModule } from '../../../src/index.js';
import { createTestDatabase } from '../../support/database.js';
import { Effect } from '../../support/effect.entity.js';
import { OfModule } from './classes.controller.js';
import { collectLogs } from './collect-logs.js';
import { Cues, Work } from './house.js';

describe('over HTTP/2, which Fastify speaks', () => {
  it('refuses to run what it cannot hold back', async () => {
    const database = await createTestDatabase();
    const logged = collectLogs();
    class AppModule {}
    const app = await NestFactory.create(
      {
        module: AppModule,
        imports: [
          TypeOrmModule.forRoot({ type: 'postgres', url: database.url, entities: [Effect], synchronize: true }),
          TypeOrmModule.forFeature([Effect]),
          IdempotencyModule.forRoot({ scope: () => '' }),
        ],
        controllers: [OfModule],
        providers: [Cues, Work],
      },
      new FastifyAdapter({ http2: true } as unknown as ConstructorParameters<typeof FastifyAdapter>[0]),
    );
    await app.listen(0, '127.0.0.1');
    const session = http2.connect(await app.getUrl());
    try {
      const stream = session.request({ ':method': 'POST', ':path': '/module/own', 'idempotency-key': 'k' });
      stream.end();
      const [head] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders];
      stream.resume();
      await once(stream, 'end');
      expect(head[':status']).toBe(500);
      expect(logged.join()).toContain('cannot hold a response over HTTP/2 back');
      expect(await app.get(DataSource).manager.count(Effect)).toBe(0);
    } finally {
      session.close();
      await app.close();
      await database.drop();
    }
  });
});
