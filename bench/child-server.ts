import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Greeting, Reply } from './servers/protocol.js';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 10_000;
/** A purge of ten million rows is the longest that is asked for. */
const ANSWER_TIMEOUT_MS = 30 * 60_000;

/** A process of this bench that listens on a port of 127.0.0.1 and answers commands, one at a time. */
export class ChildServer<Command extends object> {
  private constructor(
    private readonly child: ChildProcess,
    readonly port: number,
  ) {}

  static async start<C extends object>(
    program: string,
    args: string[],
    env: NodeJS.ProcessEnv = {},
  ): Promise<ChildServer<C>> {
    const child = fork(program, args, {
      env: { ...process.env, NODE_ENV: 'production', ...env },
      execArgv: [
        '--disable-warning=ExperimentalWarning',
        '--disable-warning=DeprecationWarning',
        // V8 throws away code that has not run for a while, and what it has learnt of it when it tidies an idle heap up: a
        // server that had waited for its turn would begin anew.
        '--no-flush-bytecode',
        '--no-memory-reducer',
      ],
    });
    const timeout = setTimeout(() => child.kill('SIGKILL'), START_TIMEOUT_MS);
    const exited = once(child, 'exit').then(([code, signal]): Greeting => ({ error: `it ended (${code ?? signal})` }));
    const greeted = once(child, 'message').then(([greeting]) => greeting as Greeting);
    const greeting = await Promise.race([greeted, exited]);
    clearTimeout(timeout);
    if ('error' in greeting) {
      child.kill('SIGKILL');
      throw new Error(greeting.error);
    }
    return new ChildServer<C>(child, greeting.port);
  }

  ask(command: Command): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const timeout = setTimeout(() => this.child.kill('SIGKILL'), ANSWER_TIMEOUT_MS);
      const answered = (reply: Reply): void => {
        clearTimeout(timeout);
        this.child.off('exit', ended);
        if ('error' in reply) {
          reject(new Error(reply.error));
        } else {
          resolve(reply.value);
        }
      };
      const ended = (): void => {
        clearTimeout(timeout);
        this.child.off('message', answered);
        reject(new Error('a server under test has ended'));
      };
      this.child.once('message', answered);
      this.child.once('exit', ended);
      this.child.send(command);
    });
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) {
      return;
    }
    const exited = once(this.child, 'exit');
    this.child.disconnect();
    const patience = new AbortController();
    await Promise.race([
      exited,
      delay(STOP_TIMEOUT_MS, undefined, { signal: patience.signal, ref: false }).catch(() => undefined),
    ]);
    patience.abort();
    this.child.kill('SIGKILL');
  }
}
