#!/usr/bin/env node
import { describeFailure } from './failure.js';
import { runCommand } from './run-command.js';

// Whoever reads the output may have had enough of it (`| head`, `| true`). What is to be done is done all the same.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') {
      throw error;
    }
  });
}

async function main(): Promise<never> {
  try {
    process.exitCode = await runCommand(process.argv.slice(2));
  } catch (error) {
    const { exitCode, message } = describeFailure(error);
    process.stderr.write(`nestjs-idempotency: ${message}\n`);
    process.exitCode = exitCode;
  }
  // A module of the user's may have left a timer or a connection behind; but first a pipe has to take what was written.
  await Promise.all([process.stdout, process.stderr].map((stream) => new Promise((done) => stream.write('', done))));
  process.exit();
}

void main();
