import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { programOf } from '../../support/program.js';
import { rawRequest, type RawResponse } from '../../support/raw-http.js';
import type { FromApp, Server, Span, ToApp, Tracer } from './protocol.js';

const MAIN = programOf('test/e2e/process/app.ts');

/** The application in a process of its own, which a fault could end. */
export class ChildApp {
  private stderr = '';

  private constructor(
    private readonly child: ChildProcess,
    readonly servers: readonly Server[],
  ) {
    child.stderr!.on('data', (chunk) => (this.stderr += String(chunk)));
  }

  static async start(databaseUrl: string): Promise<ChildApp> {
    const child = fork(MAIN, {
      execArgv: [],
      env: { PATH: process.env['PATH'], APP_DATABASE_URL: databaseUrl },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    const [ready] = (await once(child, 'message')) as [FromApp];
    return new ChildApp(child, (ready as { servers: Server[] }).servers);
  }

  async trace(tracer: Tracer): Promise<void> {
    await this.ask({ trace: tracer });
  }

  async spans(): Promise<Span[]> {
    return ((await this.ask({ spans: true })) as { spans: Span[] }).spans;
  }

  async post({ port }: Server, path: string, key: string): Promise<RawResponse> {
    try {
      return await rawRequest(port, { method: 'POST', path, headers: [['Idempotency-Key', key]] });
    } catch (cause) {
      throw new Error(`POST ${path} was not answered; the process said: ${this.stderr}`, { cause });
    }
  }

  async get({ port }: Server, path: string): Promise<string> {
    return (await rawRequest(port, { method: 'GET', path })).body.toString();
  }

  /** Whether it has survived all that was done to it, and what may have come a moment later. */
  async isAliveASecondLater(): Promise<boolean> {
    await delay(1_000);
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill();
      await once(this.child, 'exit');
    }
  }

  private async ask(question: ToApp): Promise<FromApp> {
    const answer = once(this.child, 'message');
    this.child.send(question);
    return ((await answer) as [FromApp])[0];
  }
}
