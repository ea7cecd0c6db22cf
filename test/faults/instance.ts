import { type ChildProcess, fork } from 'node:child_process';
import { Agent } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { Failpoint } from '../../src/util/failpoint.js';
import {
  type ArmMessage,
  BOOT_FAILED,
  type InstanceConfig,
  type PoolReport,
  type ReadyMessage,
  type ReportMessage,
} from './app/protocol.js';

/** How an instance ended: killed at a failpoint, killed by the suite, not started, or by itself, which no fault excuses. */
export type Death =
  | { kind: 'failpoint'; failpoint: Failpoint }
  | { kind: 'killed' }
  | { kind: 'boot failed' }
  | { kind: 'by itself'; why: string };

/** One process of the application under test. */
export class Instance {
  readonly ready: Promise<void>;
  readonly died: Promise<Death>;
  private poolReport: ((report: PoolReport) => void) | undefined;
  /** Connections of the clients to it; they break with it. */
  readonly agent = new Agent({ keepAlive: true, maxSockets: 64 });
  port = 0;
  bootMs = 0;
  alive = true;
  /** The failpoint it was last told of: a message that disarms may come too late. */
  private armed: Failpoint | undefined;
  private stopping = false;
  private readonly process: ChildProcess;
  private errors = '';

  constructor(
    main: string,
    readonly name: string,
    readonly config: InstanceConfig,
  ) {
    this.process = fork(main, {
      execArgv: [],
      env: { PATH: process.env['PATH'], FAULTS_INSTANCE: JSON.stringify(config) },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.process.stderr?.on('data', (chunk: Buffer) => {
      this.errors = (this.errors + chunk.toString()).slice(-4_000);
    });
    this.process.on('error', () => undefined); // a message to a process that has just died
    this.died = new Promise((resolve) => {
      this.process.once('close', (code, signal) => {
        this.alive = false;
        this.agent.destroy();
        resolve(this.deathBy(code, signal));
      });
    });
    this.ready = new Promise((resolve, reject) => {
      this.process.on('message', (message: ReadyMessage | PoolReport) => {
        if ('port' in message) {
          Object.assign(this, message);
          resolve();
        } else {
          this.poolReport?.(message);
        }
      });
      void this.died.then((death) => reject(new Error(`${name} died before it was ready: ${JSON.stringify(death)}`)));
    });
    this.ready.catch(() => undefined); // told by `died` as well
  }

  /** It will kill itself at the `hit`-th passage from now on. */
  arm(failpoint: Failpoint | undefined, hit = 1): void {
    this.armed = failpoint ?? this.armed;
    if (this.process.connected) {
      this.process.send({ failpoint, hit } satisfies ArmMessage, () => undefined);
    }
  }

  /** How its pool of connections stands. */
  async pool(): Promise<PoolReport> {
    const answer = new Promise<PoolReport>((resolve) => {
      this.poolReport = resolve;
    });
    this.process.send({ report: 'pool' } satisfies ReportMessage, () => undefined);
    const died = this.died.then((): never => {
      throw new Error(`${this.name} died while it was asked`);
    });
    return Promise.race([answer, died]);
  }

  /** Frozen for so long, while its leases run out. */
  async freeze(ms: number): Promise<void> {
    this.process.kill('SIGSTOP');
    await delay(ms);
    this.process.kill('SIGCONT');
  }

  kill(): void {
    this.stopping = true;
    this.process.kill('SIGKILL');
  }

  private deathBy(code: number | null, signal: NodeJS.Signals | null): Death {
    if (this.stopping) {
      return { kind: 'killed' };
    }
    if (signal === 'SIGKILL' && this.armed !== undefined) {
      return { kind: 'failpoint', failpoint: this.armed };
    }
    if (code === BOOT_FAILED && this.port === 0) {
      return { kind: 'boot failed' };
    }
    return { kind: 'by itself', why: `code ${code}, signal ${signal}: ${this.errors}` };
  }
}
