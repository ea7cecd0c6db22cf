import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { freePort } from '../support/free-port.js';
import { waitFor } from '../support/wait-for.js';

export interface Series {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

interface Alert {
  readonly name: string;
  readonly state: 'inactive' | 'pending' | 'firing';
  readonly health: string;
  readonly lastError: string;
}

/** A Prometheus of one's own, which looks every second. */
export class Prometheus {
  private constructor(
    private readonly process: ChildProcess,
    private readonly url: string,
    private readonly folder: string,
  ) {}

  /** @param target the port of what it scrapes */
  static async start(target: number, rules: string): Promise<Prometheus> {
    const folder = await mkdtemp(join(tmpdir(), 'prometheus-'));
    const [config, port] = [join(folder, 'prometheus.yml'), await freePort()];
    await writeFile(
      config,
      `global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [${JSON.stringify(resolve(rules))}]
scrape_configs:
  - job_name: payments
    static_configs: [{ targets: ['127.0.0.1:${target}'] }]
`,
    );
    const flags = [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ];
    const child = spawn('prometheus', flags, { stdio: ['ignore', 'ignore', 'inherit'] });
    const failed = once(child, 'error').then(([cause]) => {
      const remedy = 'Install it by "apt-get install --no-install-recommends prometheus".';
      throw new Error(`Prometheus cannot be started. ${remedy}`, { cause });
    });
    const prometheus = new Prometheus(child, `http://127.0.0.1:${port}`, folder);
    const ready = waitFor(() => prometheus.isReady(), { timeoutMs: 20_000, what: 'Prometheus to be ready' });
    await Promise.race([ready, failed as Promise<never>]);
    return prometheus;
  }

  async query(expression: string): Promise<Series[]> {
    const { result } = await this.ask<{ result: { metric: Record<string, string>; value: [number, string] }[] }>(
      `query?query=${encodeURIComponent(expression)}`,
    );
    return result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
  }

  async alerts(): Promise<Alert[]> {
    const { groups } = await this.ask<{ groups: { rules: (Alert & { lastError?: string })[] }[] }>('rules?type=alert');
    return groups
      .flatMap(({ rules }) => rules)
      .map(({ name, state, health, lastError = '' }) => ({ name, state, health, lastError }));
  }

  async stop(): Promise<void> {
    if (this.process.exitCode === null && this.process.kill('SIGTERM')) {
      await once(this.process, 'exit');
    }
    await rm(this.folder, { recursive: true });
  }

  private async isReady(): Promise<boolean> {
    return fetch(`${this.url}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  }

  private async ask<T>(path: string): Promise<T> {
    const response = await fetch(`${this.url}/api/v1/${path}`);
    const { status, data, error } = (await response.json()) as { status: string; data: T; error?: string };
    if (status !== 'success') throw new Error(`${path}: ${error}`);
    return data;
  }
}
