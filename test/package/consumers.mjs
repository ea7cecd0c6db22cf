/** However it is loaded there is one of each class and token, made of the application's own NestJS. */
export const TWICE = `
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { HttpException } from '@nestjs/common';

const require = createRequire(import.meta.url);
for (const entry of ['nestjs-idempotency', 'nestjs-idempotency/migrations', 'nestjs-idempotency/testing']) {
  const [imported, required] = [await import(entry), require(entry)];
  assert.deepEqual(Object.keys(imported).sort(), Object.keys(required).sort());
  for (const name of Object.keys(required)) assert.equal(imported[name], required[name], name);
}
const { IdempotencyException } = require('nestjs-idempotency');
assert.equal(Object.getPrototypeOf(IdempotencyException), HttpException);
assert.equal(require('@nestjs/common').HttpException, HttpException);
console.log('one instance');
`;

/** For \`moduleResolution: node\` and a target of ES2021. */
export const OLDER = `
import { IdempotencyModule, Idempotent, IdempotencyInterceptor } from 'nestjs-idempotency';
import { idempotencyMigrations, idempotencyMigrationsIn } from 'nestjs-idempotency/migrations';
import { expectReplay, type Operation } from 'nestjs-idempotency/testing';
import { idempotent, IdempotentRequestError, operation, poll } from 'nestjs-idempotency/client';
import { DataSource } from 'typeorm';

export const test = (operation: Operation) => expectReplay(operation);
new DataSource({ type: 'postgres', migrations: [...idempotencyMigrations, ...idempotencyMigrationsIn('infra')] });
export const pay = async () => poll(await idempotent(fetch)('/payments', { method: 'POST', operation: operation('pay') }));
export default [IdempotentRequestError, IdempotencyModule.forRoot(), Idempotent, IdempotencyInterceptor];
`;

/** Names everything that is exported, and uses the most of it.  */
export function consumer({ values, types }) {
  return `
import assert from 'node:assert/strict';
import { Controller, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { getRepositoryToken, InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { Column, Entity, PrimaryGeneratedColumn, Repository } from 'typeorm';
import * as library from 'nestjs-idempotency';
import { ${values.join(', ')} } from 'nestjs-idempotency';
import type { ${types.join(', ')} } from 'nestjs-idempotency';
import * as migrations from 'nestjs-idempotency/migrations';
import { expectOneOfStorm, expectReplay, expectReplayAfterLostResponse, expectRetryAfterFailedCommit } from 'nestjs-idempotency/testing';

assert.deepEqual(Object.keys(library).sort(), ${JSON.stringify(values.toSorted())});
assert.equal(migrations.idempotencyMigrations, idempotencyMigrations);
export const everyValue = [${values.join(', ')}];
export type EveryType = [${types.map((name) => (['Resolver', 'Serialized'].includes(name) ? `${name}<string>` : name)).join(', ')}];

@Entity()
class Payment {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  key!: string;
}

@Controller('payments')
class PaymentsController {
  constructor(@InjectRepository(Payment) private readonly payments: Repository<Payment>) {}

  @Post('leased')
  @Idempotent({ mode: 'lease' })
  async createLeased(@IdempotencyContext() context: IdempotencyContext): Promise<{ at: string }> {
    return context.step('take the time', () => ({ at: new Date() }));
  }

  @Post()
  @Idempotent({ ttlMs: 60_000, inFlight: { waitMs: 1_000 } })
  async create(@IdempotencyContext() { key }: IdempotencyContext): Promise<Payment> {
    return this.payments.save({ key });
  }
}

const scope: Resolver<string> = () => '';

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: process.env['DATABASE_URL'],
      entities: [Payment],
      migrations: idempotencyMigrationsIn('infra'),
      migrationsRun: true,
      synchronize: true,
    }),
    TypeOrmModule.forFeature([Payment]),
    IdempotencyModule.forRootAsync({ useFactory: (): IdempotencyModuleOptions => ({ scope }) }),
  ],
  controllers: [PaymentsController],
})
class AppModule {}

const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'] });
await app.listen(0, '127.0.0.1');
const post = async (path = '') => {
  const response = await fetch(await app.getUrl() + '/payments' + path, {
    method: 'POST',
    headers: { 'Idempotency-Key': 'abc' + path, 'Connection': 'close' },
  });
  return { status: response.status, body: await response.text(), replayed: response.headers.get('Idempotency-Replayed') };
};
assert.deepEqual(await post(), { status: 201, body: '{"key":"abc","id":1}', replayed: null });
assert.deepEqual(await post(), { status: 201, body: '{"key":"abc","id":1}', replayed: 'true' });
const leased = await post('/leased');
assert.equal(leased.status, 201);
assert.deepEqual(await post('/leased'), { ...leased, replayed: 'true' });
const problem = await fetch(await app.getUrl() + '/payments', { method: 'POST', headers: { 'Connection': 'close' } });
assert.equal(problem.status, 400);
assert.equal(problem.headers.get('Content-Type'), 'application/problem+json; charset=utf-8');
const stored: StoredKey | undefined = await app.get(IdempotencyService).find('abc');
assert.equal(stored?.status, 201);
const payments = app.get<Repository<Payment>>(getRepositoryToken(Payment));
app.useLogger(false); // the requests that are interrupted are logged
for (const expectation of [expectReplay, expectOneOfStorm, expectReplayAfterLostResponse, expectRetryAfterFailedCommit]) {
  const url = await app.getUrl() + '/payments';
  const headers = { 'Idempotency-Key': expectation.name, 'Connection': 'close' };
  await expectation({ send: () => fetch(url, { method: 'POST', headers }), countEffects: () => payments.count() });
}
await app.close();
console.log('replayed');
`;
}
