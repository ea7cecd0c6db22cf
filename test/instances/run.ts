/**
 * Runs the e2e suite with two instances of every application over one database, which requests go to one after the
 * other, so that a retry meets the instance that has not seen the request: `npm run test:instances [-- <jest arguments>]`.
 */
import { runJest } from '../support/run-jest.js';

process.exitCode = await runJest(process.argv.slice(2), { TEST_INSTANCES: '2' });
