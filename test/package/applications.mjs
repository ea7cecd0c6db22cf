/**
 * Fresh applications as `nest new` makes them, in which the steps of the README are followed as a new user would: install,
 * migrate, decorate, compile, boot, send twice, and test, by the test runner that the application came with.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** `nest new` of 10 and 11 makes CommonJS with jest, that of 12 ESM with vitest. */
export const APPLICATIONS = [
  { nestjs: '12', typeorm: '1', adapter: 'fastify' },
  { nestjs: '11', typeorm: '1', adapter: 'express' },
  { nestjs: '11', typeorm: '0.3.31', adapter: 'fastify' },
  { nestjs: '10', typeorm: '0.3.20', adapter: 'express' },
];

/** Of what `nest new` asks for, but no step here needs. */
const SPARED = /eslint|prettier|oxlint|^globals$|@nestjs\/mau|coverage/;

const BOOT_TIMEOUT_MS = 60_000;

/** @param tools `step` and `capture` of the smoke test */
export async function tryApplication({ nestjs, typeorm, adapter }, { folder, tarball, databaseUrl, step, capture }) {
  const name = `nestjs-${nestjs}-typeorm-${typeorm}-${adapter}`;
  const root = join(folder, name);
  const run = (program, ...args) => [program, args, { cwd: root, env: { ...process.env, DATABASE_URL: databaseUrl } }];
  const flags = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];

  const create = [`@nestjs/cli@${nestjs}`, 'new', name, '--skip-git', '--skip-install', '--package-manager', 'npm'];
  step(`nest new, ${name}`, 'npx', ['--yes', ...create, '--strict'], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const isEsm = spare(join(root, 'package.json'));
  step('npm install', ...run('npm', 'install', ...flags, `@nestjs/typeorm@${nestjs}`, `typeorm@${typeorm}`, 'pg'));
  if (adapter === 'fastify')
    step('with Fastify', ...run('npm', 'install', ...flags, `@nestjs/platform-fastify@${nestjs}`));
  step('npm install nestjs-idempotency', ...run('npm', 'install', ...flags, tarball));
  const migrated = capture(...run('npx', '--no-install', 'nestjs-idempotency', 'migration:run', '--url', databaseUrl));
  if (!migrated.includes('applied CreateIdempotencyKeys')) throw new Error(migrated);

  for (const [file, text] of Object.entries(sources({ isEsm, adapter, nestjs }))) {
    writeFileSync(join(root, file), text);
  }
  step('npm run build', ...run('npm', 'run', 'build'));
  await sendTwice(root, databaseUrl);
  step('npm test', ...run('npm', 'test'));
  step('npm run test:e2e', ...run('npm', 'run', 'test:e2e'));
}

/** Whether it is ESM. */
function spare(file) {
  const manifest = JSON.parse(readFileSync(file, 'utf8'));
  const kept = Object.entries(manifest.devDependencies).filter(([name]) => !SPARED.test(name));
  writeFileSync(file, JSON.stringify({ ...manifest, devDependencies: Object.fromEntries(kept) }, null, 2));
  return manifest.type === 'module';
}

async function sendTwice(root, databaseUrl) {
  const port = await freePort();
  const application = spawn(process.execPath, ['dist/main'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, DATABASE_URL: databaseUrl, PORT: String(port) },
  });
  try {
    await booted(application, port);
    const [first, second] = [await pay(port), await pay(port)];
    const told = JSON.stringify([first, second]);
    if (first.status !== 201 || first.replayed !== null) throw new Error(`The first request was answered ${told}.`);
    if (second.status !== 201 || second.replayed !== 'true' || second.body !== first.body) {
      throw new Error(`The retry was no replay: ${told}.`);
    }
  } finally {
    application.kill('SIGTERM');
    if (application.exitCode === null && application.signalCode === null) await once(application, 'exit');
  }
}

async function booted(application, port) {
  for (const deadline = Date.now() + BOOT_TIMEOUT_MS; ; await delay(100)) {
    if (application.exitCode !== null || Date.now() > deadline) throw new Error('The application does not boot.');
    if (
      await fetch(`http://127.0.0.1:${port}/`).then(
        () => true,
        () => false,
      )
    )
      return;
  }
}

async function pay(port) {
  const response = await fetch(`http://127.0.0.1:${port}/payments`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': 'one', Connection: 'close' },
    body: JSON.stringify({ amount: 5 }),
  });
  return {
    status: response.status,
    body: await response.text(),
    replayed: response.headers.get('Idempotency-Replayed'),
  };
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** What a user writes. */
function sources({ isEsm, adapter, nestjs }) {
  const js = isEsm ? '.js' : '';
  const isFastify = adapter === 'fastify';
  const http = isFastify ? 'new FastifyAdapter()' : 'new ExpressAdapter()';
  const importHttp = isFastify
    ? `import { FastifyAdapter } from '@nestjs/platform-fastify';`
    : `import { ExpressAdapter } from '@nestjs/platform-express';`;
  // The tsconfig.json of 10 has no esModuleInterop.
  const importRequest = nestjs === '10' ? `import * as request from 'supertest';` : `import request from 'supertest';`;
  const send = isFastify
    ? `() => app.getHttpAdapter().getInstance().inject({ method: 'POST', url: '/payments', headers: { 'Idempotency-Key': key }, payload: { amount: 5 } })`
    : `() => request(app.getHttpServer()).post('/payments').set('Idempotency-Key', key).send({ amount: 5 })`;
  return {
    'src/payment.entity.ts': `
import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

@Entity()
export class Payment {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('int')
  amount!: number;
}
`,
    'src/payments.controller.ts': `
import { Body, Controller, Post } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Idempotent } from 'nestjs-idempotency';
import { Repository } from 'typeorm';
import { Payment } from './payment.entity${js}';

@Controller('payments')
export class PaymentsController {
  constructor(@InjectRepository(Payment) private readonly payments: Repository<Payment>) {}

  @Post()
  @Idempotent()
  create(@Body() body: Pick<Payment, 'amount'>): Promise<Payment> {
    return this.payments.save({ amount: body.amount });
  }
}
`,
    'src/app.module.ts': `
import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { IdempotencyModule } from 'nestjs-idempotency';
import { AppController } from './app.controller${js}';
import { AppService } from './app.service${js}';
import { Payment } from './payment.entity${js}';
import { PaymentsController } from './payments.controller${js}';

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env.DATABASE_URL, entities: [Payment], synchronize: true }),
    TypeOrmModule.forFeature([Payment]),
    IdempotencyModule.forRoot({ required: false }),
  ],
  controllers: [AppController, PaymentsController],
  providers: [AppService],
})
export class AppModule {}
`,
    'src/main.ts': `
import { NestFactory } from '@nestjs/core';
${importHttp}
import { AppModule } from './app.module${js}';

async function bootstrap() {
  const app = await NestFactory.create(AppModule, ${http}, { logger: ['error', 'warn'] });
  await app.listen(process.env.PORT ?? 3000, '127.0.0.1');
}
void bootstrap();
`,
    'src/payments.controller.spec.ts': `
import { Test } from '@nestjs/testing';
import { getRepositoryToken } from '@nestjs/typeorm';
import { Payment } from './payment.entity${js}';
import { PaymentsController } from './payments.controller${js}';

describe('PaymentsController', () => {
  it('creates', async () => {
    const repository = { save: async (payment: Partial<Payment>) => ({ id: 1, ...payment }) };
    const module = await Test.createTestingModule({
      controllers: [PaymentsController],
      providers: [{ provide: getRepositoryToken(Payment), useValue: repository }],
    }).compile();
    expect(await module.get(PaymentsController).create({ amount: 5 })).toEqual({ id: 1, amount: 5 });
  });
});
`,
    // In the place of the test that \`nest new\` makes, which knows Express only.
    'test/app.e2e-spec.ts': `
import { randomUUID } from 'node:crypto';
import { Test } from '@nestjs/testing';
${importHttp}
${isFastify ? '' : importRequest}
import {
  expectOneOfStorm,
  expectReplay,
  expectReplayAfterLostResponse,
  expectRetryAfterFailedCommit,
} from 'nestjs-idempotency/testing';
import { DataSource } from 'typeorm';
import { AppModule } from './../src/app.module${js}';
import { Payment } from './../src/payment.entity${js}';

describe('payments (e2e)', () => {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  let app: any;

  beforeAll(async () => {
    const module = await Test.createTestingModule({ imports: [AppModule] }).compile();
    app = module.createNestApplication(${http});
    app.useLogger(false);
    await app.listen(0, '127.0.0.1');
  });

  afterAll(() => app.close());

  for (const expectation of [expectReplay, expectOneOfStorm, expectReplayAfterLostResponse, expectRetryAfterFailedCommit]) {
    it(expectation.name, async () => {
      const key = randomUUID();
      const { status } = await expectation({
        send: ${send},
        countEffects: () => app.get(DataSource).getRepository(Payment).count(),
      });
      expect(status).toBe(201);
    });
  }

  it('says what was not as it should be', async () => {
    const key = randomUUID();
    await expect(expectReplay({ send: ${send}, countEffects: () => 0 })).rejects.toThrow(
      'The first request must have 1 effect, but countEffects() tells of 0.',
    );
  });
});
`,
  };
}
