import tests from '../jest.config.js';

const { globalSetup: _, globalTeardown: __, ...withoutServer } = tests;

/** @type {import('jest').Config} What needs no PostgreSQL. */
export default { ...withoutServer, rootDir: '..', testMatch: ['<rootDir>/test/unit/**/*.spec.ts'] };
