import tests from '../jest.config.js';

/**
 * What takes minutes by its nature: the fuzzing, and the short forms of the fault suite. One after the other: each of
 * those brings some ten processes along, and what it has to reach it has to reach in time.
 *
 * @type {import('jest').Config}
 */
export default { ...tests, rootDir: '..', testMatch: ['<rootDir>/test/**/*.long.spec.ts'], maxWorkers: 1 };
