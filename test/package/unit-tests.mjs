/** The unit test of a controller as users write it: under ts-jest as `nest new` sets it up, from 12 on in jest's ESM mode. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const CONTROLLER = `
import { Controller, Post } from '@nestjs/common';
import { Idempotent } from 'nestjs-idempotency';

@Controller('payments')
export class PaymentsController {
  @Post()
  @Idempotent()
  create(): { id: number } {
    return { id: 1 };
  }
}
`;

const SPEC = `
import { Test } from '@nestjs/testing';
import { idempotencyMigrations } from 'nestjs-idempotency/migrations';
import { PaymentsController } from './payments.controller';

describe('PaymentsController', () => {
  it('creates', async () => {
    const module = await Test.createTestingModule({ controllers: [PaymentsController] }).compile();
    expect(module.get(PaymentsController).create()).toEqual({ id: 1 });
    expect(idempotencyMigrations.length).toBeGreaterThan(0);
  });
});
`;

/** As in the package.json that \`nest new\` makes. */
const TS_JEST = {
  moduleFileExtensions: ['js', 'json', 'ts'],
  rootDir: '.',
  testRegex: '.*\\.spec\\.ts$',
  transform: { '^.+\\.(t|j)s$': 'ts-jest' },
  testEnvironment: 'node',
};

const CTS = {
  module: 'commonjs',
  target: 'ES2021',
  experimentalDecorators: true,
  emitDecoratorMetadata: true,
  strict: true,
  types: ['node', 'jest'],
};

const ESM_SPEC = `
import { Controller, Post } from '@nestjs/common';
import { Test } from '@nestjs/testing';
import { Idempotent, IdempotencyException } from 'nestjs-idempotency';
import { HttpException } from '@nestjs/common';

class PaymentsController {
  create() {
    return { id: 1 };
  }
}
const method = Object.getOwnPropertyDescriptor(PaymentsController.prototype, 'create');
Post()(PaymentsController.prototype, 'create', method);
Idempotent()(PaymentsController.prototype, 'create', method);
Controller('payments')(PaymentsController);

test('creates', async () => {
  const module = await Test.createTestingModule({ controllers: [PaymentsController] }).compile();
  expect(module.get(PaymentsController).create()).toEqual({ id: 1 });
  expect(Object.getPrototypeOf(IdempotencyException)).toBe(HttpException);
});
`;

/** What it takes beside the application's own packages. */
export function testPackages(major) {
  const testing = `@nestjs/testing@${major}`;
  return major >= 12
    ? [testing, 'jest@30']
    : [testing, `@nestjs/platform-express@${major}`, 'jest@29', 'ts-jest@29', '@types/jest@29', 'typescript@5.4'];
}

/** Writes the tests into a folder below the project, and answers with the arguments of Node.js that run them. */
export function writeUnitTests(project, major) {
  const folder = join(project, 'unit');
  mkdirSync(folder);
  const write = (name, text) =>
    writeFileSync(join(folder, name), typeof text === 'string' ? text : JSON.stringify(text));
  const jest = join(project, 'node_modules/jest/bin/jest.js');
  if (major >= 12) {
    write('package.json', { type: 'module', jest: { testEnvironment: 'node', transform: {} } });
    write('payments.spec.js', ESM_SPEC);
    return ['--experimental-vm-modules', jest, '--rootDir', folder];
  }
  write('package.json', { jest: TS_JEST });
  write('tsconfig.json', { compilerOptions: CTS });
  write('payments.controller.ts', CONTROLLER);
  write('payments.controller.spec.ts', SPEC);
  return [jest, '--rootDir', folder];
}
