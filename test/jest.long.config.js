import tests from '../jest.config.js';

/** @type {import('jest').Config} What takes minutes by its nature: the fuzzing, and the short forms of the fault suite. */
export default { ...tests, rootDir: '..', testMatch: ['<rootDir>/test/**/*.long.spec.ts'] };
