#!/usr/bin/env node
import { describeFailure } from './failure.js';
import { runCommand } from './run-command.js';

try {
  await runCommand(process.argv.slice(2));
} catch (error) {
  const { exitCode, message } = describeFailure(error);
  process.stderr.write(`nestjs-idempotency: ${message}\n`);
  // Not process.exit(), which would cut off what a pipe has not taken yet.
  process.exitCode = exitCode;
}
