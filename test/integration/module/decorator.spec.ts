import { describe, expect, it } from '@jest/globals';
import {
  All,
  Body,
  Controller,
  Delete,
  Get,
  Head,
  HttpCode,
  Injectable,
  Options,
  Param,
  Post,
  Sse,
} from '@nestjs/common';
import type { Pool } from 'pg';
import { type Observable, of } from 'rxjs';
import { DataSource } from 'typeorm';
import { IdempotencyModule, IdempotencyOptionError, Idempotent, type IdempotentOptions } from '../../../src/index.js';
import { rawRequest } from '../../support/raw-http.js';
import { boot, bootError, Effects, expectOneExecution, keyRows, REPLAYED, withADatabaseEach } from './house.js';

withADatabaseEach();

describe('@Idempotent()', () => {
  const refused = (decorate: MethodDecorator, options?: IdempotentOptions) => {
    @Controller('refused')
    class Refused {
      @decorate
      @Idempotent(options)
      handler(): Observable<unknown> {
        return of({});
      }
    }
    return bootError(boot(IdempotencyModule.forRoot(), { controllers: [Refused] }));
  };

  it.each([
    ['@Get()', Get(), /GET is idempotent by definition \(RFC 9110, section 9\.2\.2\).* Remove @Idempotent\(\)\.$/],
    ['@Head()', Head(), /HEAD is idempotent by definition .* Remove @Idempotent\(\)\.$/],
    ['@Options()', Options(), /OPTIONS is idempotent by definition .* Remove @Idempotent\(\)\.$/],
    ['@Sse()', Sse(), /an @Sse\(\) stream has no end that could be recorded\. Remove @Idempotent\(\)\.$/],
    ['@All()', All(), /@All\(\) answers GET, too, .* Name the methods instead, such as @Post\(\)\.$/],
  ])('on %s ends the start with the reason', async (_, decorate, reason) => {
    const error = await refused(decorate);
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toMatch(/^@Idempotent\(\) of Refused\.handler: /);
    expect(error.message).toMatch(reason);
  });

  it('with a wrong option ends the start', async () => {
    const error = await refused(Post(), { ttlMs: 0 });
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toMatch(/^@Idempotent\(\) of Refused\.handler: option 'ttlMs' must be/);
  });

  it.each([
    ['that has a handler for it', Post()],
    ['that has none', Get()],
  ])('with a wrong option ends the start on a class, too, %s', async (_, decorate) => {
    @Controller('refused')
    @Idempotent({ retries: 21 })
    class RefusedClass {
      @decorate
      handler() {}
    }
    const error = await bootError(boot(IdempotencyModule.forRoot(), { controllers: [RefusedClass] }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toMatch(/^@Idempotent\(\) of RefusedClass: option 'retries' must be/);
  });

  it('on a class leaves its handlers for safe methods alone', async () => {
    @Controller('class')
    @Idempotent()
    class WholeClass {
      constructor(private readonly effects: Effects) {}

      @Get()
      read() {
        return this.effects.labels();
      }

      @Head('head')
      head() {}

      @Options('options')
      options() {}

      @Sse('events')
      events() {
        return of({ data: 'one' });
      }

      @Post()
      create() {
        return this.effects.add('thing');
      }

      @Delete()
      remove() {
        return this.effects.add('removed');
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [WholeClass] });

    await expectOneExecution(test, '/class');
    const request = (method: string, path: string) =>
      rawRequest(test.port, { method, path, headers: [['Idempotency-Key', 'def']] });
    const answers = [
      await request('GET', '/class'),
      await request('HEAD', '/class/head'),
      await request('OPTIONS', '/class/options'),
      await request('GET', '/class/events'),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(answers[0]!.body.toString()).toBe('["thing"]');
    expect(answers.flatMap(({ headerLines }) => headerLines).filter((line) => /^idempotency/i.test(line))).toEqual([]);

    expect((await rawRequest(test.port, { method: 'DELETE', path: '/class' })).status).toBe(400);
    expect((await request('DELETE', '/class')).status).toBe(200);
    expect((await request('DELETE', '/class')).headerLines).toContain(REPLAYED);
  });

  it('on a class takes in the handlers it inherits, with all that decorates them, but not those of its sisters', async () => {
    @Injectable()
    abstract class Base {
      constructor(protected readonly effects: Effects) {}

      @Post(':name')
      @HttpCode(202)
      create(@Param('name') name: string, @Body() { label }: { label: string }) {
        return this.effects.add(`${label} of ${name}`);
      }
    }
    @Controller('guarded')
    @Idempotent()
    class Guarded extends Base {}
    @Controller('plain')
    class Plain extends Base {}
    @Controller('heir')
    class Heir extends Guarded {}
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [Guarded, Plain, Heir] });

    for (const path of ['/guarded/a', '/guarded/a', '/heir/b', '/heir/b', '/plain/c', '/plain/c']) {
      const answer = await test.post(path, path, { label: 'thing' });
      expect(answer.status).toBe(202);
      expect(answer.body.toString()).toBe(`{"label":"thing of ${path.at(-1)}"}`);
    }
    expect(await test.effects()).toEqual(['thing of a', 'thing of b', 'thing of c', 'thing of c']);
    expect((await keyRows()).map(({ key }) => key)).toEqual(['/guarded/a', '/heir/b']);
  });

  it('takes only the handlers it decorates: others are not looked at, and no connection is taken for them', async () => {
    @Controller('mixed')
    class Mixed {
      @Post('plain')
      plain() {
        return { plain: true };
      }

      @Post('guarded')
      @Idempotent()
      guarded() {
        return { plain: false };
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [Mixed] });
    const pool = (test.app.get(DataSource).driver as unknown as { master: Pool }).master;
    let taken = 0;
    pool.on('acquire', () => taken++);

    const plain = await test.post('/mixed/plain', 'abc');
    expect(plain.body.toString()).toBe('{"plain":true}');
    expect(plain.headerLines.filter((line) => /^idempotency/i.test(line))).toEqual([]);
    expect((await test.post('/mixed/plain')).status).toBe(201);
    expect(taken).toBe(0);

    expect((await test.post('/mixed/guarded', 'abc')).status).toBe(201);
    expect(taken).toBe(1);
  });
});
