import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from '@jest/globals';
import { runCli } from '../support/cli.js';

it('a file that Node.js cannot load is answered with the loaders that can, whichever is installed', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'idempotency-'));
  try {
    const file = join(directory, 'data-source.unknown');
    await writeFile(file, 'export {}');
    const { exitCode, stderr } = await runCli(['migration:show', '--data-source', file]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain(`this Node.js cannot load ${file}`);
    expect(stderr).toContain("NODE_OPTIONS='--import tsx'");
    expect(stderr).toContain("NODE_OPTIONS='--import @swc-node/register/esm-register'");
    expect(stderr).toContain("NODE_OPTIONS='--loader ts-node/esm'");
  } finally {
    await rm(directory, { recursive: true });
  }
});
