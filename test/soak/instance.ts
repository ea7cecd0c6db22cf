import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Agent } from 'node:http';
import { fileURLToPath } from 'node:url';
import type { InstanceConfig, ReadyMessage, Report } from './app/protocol.js';

const MAIN = fileURLToPath(new URL('app/main.ts', import.meta.url));

/** One process of the application. It ends with this one, however this one ends. */
export class Instance {
  readonly agent = new Agent({ keepAlive: true, maxSockets: 64 });

  private constructor(
    readonly name: string,
    readonly port: number,
    private readonly child: ChildProcess,
  ) {}

  static async start(name: string, config: InstanceConfig): Promise<Instance> {
    const child = fork(MAIN, {
      execArgv: ['--expose-gc', '--import', '@swc-node/register/esm-register'],
      env: { PATH: process.env['PATH'], SOAK_INSTANCE: JSON.stringify(config) },
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const { port } = await nextMessage<ReadyMessage>(name, child);
    return new Instance(name, port, child);
  }

  report(): Promise<Report> {
    const report = nextMessage<Report>(this.name, this.child);
    this.child.send('report');
    return report;
  }

  async stop(): Promise<void> {
    this.agent.destroy();
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill('SIGKILL');
      await once(this.child, 'exit');
    }
  }
}

async function nextMessage<T>(name: string, child: ChildProcess): Promise<T> {
  const over = new AbortController();
  const exited = once(child, 'exit', { signal: over.signal }).then(([code, signal]): never => {
    throw new Error(`The instance ${name} has ended with ${code ?? signal}.`);
  });
  exited.catch(() => undefined);
  try {
    const [message] = (await Promise.race([once(child, 'message', { signal: over.signal }), exited])) as [T];
    return message;
  } finally {
    over.abort();
  }
}
