/**
 * A monorepo in which an application gets a package from its own node_modules, and nestjs-idempotency another version of it
 * from those of the root: the application does not boot, and the message says which two copies of what there are.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const APPLICATION = `
require('reflect-metadata');
const { Controller, Module, Post } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const { TypeOrmModule } = require('@nestjs/typeorm');
const { IdempotencyModule } = require('nestjs-idempotency');
const { Idempotent } = require('../shared/idempotent.cjs');

class PaymentsController {
  create() {}
}
const method = Object.getOwnPropertyDescriptor(PaymentsController.prototype, 'create');
Post()(PaymentsController.prototype, 'create', method);
Idempotent()(PaymentsController.prototype, 'create', method);
Controller('payments')(PaymentsController);

class AppModule {}
Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env.DATABASE_URL, retryAttempts: 0 }),
    IdempotencyModule.forRoot({ scope: () => '' }),
  ],
  controllers: [PaymentsController],
})(AppModule);

NestFactory.create(AppModule, { logger: false, abortOnError: false })
  .then((app) => app.init())
  .then(
    () => process.exit(0),
    (error) => {
      console.log(error.message);
      process.exit(1);
    },
  );
`;

/** @param newest a project whose packages become the root's; `older` one whose become the application's */
export function tellTwoCopies({ root, newest, older, databaseUrl }) {
  const [hoisted, own] = [join(root, 'node_modules'), join(root, 'app', 'node_modules')];
  mkdirSync(join(root, 'app'), { recursive: true });
  mkdirSync(join(root, 'shared'));
  renameSync(join(newest, 'node_modules'), hoisted);
  renameSync(join(older, 'node_modules'), own);
  writeFileSync(join(root, 'shared', 'idempotent.cjs'), `module.exports = require('nestjs-idempotency');`);
  writeFileSync(join(root, 'app', 'main.cjs'), APPLICATION);
  const environment = { ...process.env, DATABASE_URL: databaseUrl };
  const expectToldOf = (name) => {
    const { stdout, stderr } = spawnSync(process.execPath, ['main.cjs'], {
      cwd: join(root, 'app'),
      encoding: 'utf8',
      env: environment,
    });
    const expected = [
      `there are two copies of ${name}: `,
      ...[hoisted, own].map((folder) => `${versionIn(folder, name)} in ${realpathSync(join(folder, name))}, which `),
    ];
    const missing = expected.filter((part) => !stdout.includes(part));
    if (missing.length > 0) {
      throw new Error(`The application should have said "${missing.join('" and "')}", but said:\n${stdout}${stderr}`);
    }
  };

  const migrated = spawnSync('npx', ['--no-install', 'nestjs-idempotency', 'migration:run'], {
    cwd: root,
    encoding: 'utf8',
    env: environment,
  });
  if (migrated.status !== 0) throw new Error(migrated.stderr);

  remove(own, 'nestjs-idempotency');
  expectToldOf('@nestjs/core');

  remove(own, 'reflect-metadata', 'rxjs', ...readdirSync(join(own, '@nestjs')).map((name) => `@nestjs/${name}`));
  cpSync(join(hoisted, '@nestjs/typeorm'), join(own, '@nestjs/typeorm'), { recursive: true });
  expectToldOf('typeorm');

  remove(own, 'typeorm', '@nestjs/typeorm');
  cpSync(join(hoisted, 'nestjs-idempotency'), join(own, 'nestjs-idempotency'), { recursive: true });
  expectToldOf('nestjs-idempotency');
}

function versionIn(folder, name) {
  return JSON.parse(readFileSync(join(folder, name, 'package.json'), 'utf8')).version;
}

function remove(folder, ...names) {
  names.forEach((name) => rmSync(join(folder, name), { recursive: true, force: true }));
}
