// oxlint-disable jest/expect-expect -- the commands of a model make the claims, not the test that runs them
import { afterAll, beforeAll, describe, it } from '@jest/globals';
import * as fc from 'fast-check';
import { StateMachineModel } from './model.js';
import { ADAPTERS } from '../../support/test-app.js';
import { COMMANDS } from './commands.js';
import { System } from './system.js';

/**
 * Model-based test: random commands against two applications over one database, and against the model of a key. After
 * each command both tables, the locks and every answer must be what the model says.
 *
 * A failure prints a seed, a path and a replay path. STATE_MACHINE_SEED, STATE_MACHINE_PATH and
 * STATE_MACHINE_REPLAY_PATH run it again; STATE_MACHINE_RUNS sets the number of runs for each adapter.
 */
const environment = (name: string): string | undefined => process.env[`STATE_MACHINE_${name}`];

const RUNS = Number(environment('RUNS') ?? 25);
const MAX_COMMANDS = 40;

/** Shrinking a failure ends here at the latest; a run that passes is done long before. */
const TIME_LIMIT_MS = environment('RUNS') === undefined ? 60_000 : 3_600_000;

describe.each(ADAPTERS)('two applications over one database, on %s', (adapter) => {
  let system: System;

  beforeAll(async () => {
    system = await System.start(adapter);
  });

  afterAll(async () => {
    await system.stop();
  });

  it(
    'do with each key what the model does, whatever is sent, cut, expired, purged and restarted in between',
    async () => {
      const seed = environment('SEED');
      await fc.assert(
        fc
          .asyncProperty(
            fc.commands(COMMANDS, {
              maxCommands: MAX_COMMANDS,
              size: 'max',
              replayPath: environment('REPLAY_PATH'),
            }),
            (steps) => fc.asyncModelRun(() => ({ model: new StateMachineModel(), real: system }), steps),
          )
          .beforeEach(() => system.reset()),
        {
          numRuns: RUNS,
          path: environment('PATH'),
          ...(seed === undefined ? {} : { seed: Number(seed) }),
          interruptAfterTimeLimit: TIME_LIMIT_MS,
          markInterruptAsFailure: true,
        },
      );
    },
    TIME_LIMIT_MS + 30_000,
  );
});
