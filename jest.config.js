import { availableParallelism } from 'node:os';

/** @type {import('jest').Config} What `npm test` runs: all but the `.long.spec.ts` (`npm run test:long`) and the `.browser.spec.ts` (`npm run test:browser`). */
export default {
  testMatch: ['<rootDir>/test/**/*.spec.ts', '!**/*.long.spec.ts', '!**/*.browser.spec.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '^.+\\.ts$': '@swc/jest' },
  globalSetup: '<rootDir>/test/support/global-setup.ts',
  globalTeardown: '<rootDir>/test/support/global-teardown.ts',
  setupFilesAfterEnv: ['<rootDir>/test/support/properties.ts', '<rootDir>/test/support/strict-states.ts'],
  testTimeout: 60_000,
  // The tests wait for PostgreSQL and for clocks: with a worker for each core a third of the processors stood idle.
  maxWorkers: Math.ceil(availableParallelism() * 1.5),
  // Modules that jest has loaded as ESM stay in memory for good. At 3 GiB a worker spent more on them than on the tests.
  workerIdleMemoryLimit: '600MB',
};
