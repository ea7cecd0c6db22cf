import tests from '../jest.config.js';

/** @type {import('jest').Config} What needs a Citus cluster, one after the other: some of it crashes the servers. */
export default { ...tests, rootDir: '..', testMatch: ['<rootDir>/test/citus/**/*.cluster.ts'], maxWorkers: 1 };
