import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Adapter } from '../../../examples/payments/app.js';
import { programOf } from '../../support/program.js';

interface Example {
  process: ChildProcess;
  port: number;
}

/** Processes of the payments example over one database, of which some are killed while the others serve. */
export class Examples {
  kills = 0;
  private serving: Example[] = [];
  private isOver = false;
  private turn = 0;

  private constructor(private readonly environment: NodeJS.ProcessEnv) {}

  static async start(count: number, environment: NodeJS.ProcessEnv): Promise<Examples> {
    const examples = new Examples(environment);
    // The first one makes the tables.
    while (examples.serving.length < count) examples.serving.push(await examples.startOne());
    return examples;
  }

  /** Of the next one that serves. */
  get port(): number {
    return this.serving[this.turn++ % this.serving.length]?.port ?? 1; // nobody listens there
  }

  /** kill -9, and another takes its place: in the meantime the others serve, or nobody. */
  async killOne(): Promise<void> {
    const victim = this.serving.shift();
    victim?.process.kill('SIGKILL');
    this.kills++;
    const next = await this.startOne();
    if (this.isOver) next.process.kill('SIGKILL');
    else this.serving.push(next);
  }

  stop(): void {
    this.isOver = true;
    this.serving.forEach((example) => example.process.kill('SIGKILL'));
  }

  private startOne(): Promise<Example> {
    const adapter: Adapter = this.turn++ % 2 === 0 ? 'express' : 'fastify';
    const child = spawn(process.execPath, [programOf('examples/payments/main.ts')], {
      env: { PATH: process.env['PATH'], ...this.environment, ADAPTER: adapter, PORT: '0' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let errors = '';
    child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
    return new Promise((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        const port = /^ready http:\/\/127\.0\.0\.1:(\d+)$/.exec(line)?.[1];
        if (port !== undefined) resolve({ process: child, port: Number(port) });
      });
      child.once('exit', (code) => reject(new Error(`The example ended with ${code}: ${errors}`)));
    });
  }
}
