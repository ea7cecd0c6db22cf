import tests from '../jest.config.js';

/**
 * What a real browser shows of the example; needs Chromium, which is Debian's package of that name, or another one by the
 * variable CHROMIUM.
 *
 * @type {import('jest').Config}
 */
export default { ...tests, rootDir: '..', testMatch: ['<rootDir>/test/**/*.browser.spec.ts'], maxWorkers: 1 };
