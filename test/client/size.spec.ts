import { gzipSync } from 'node:zlib';
import { expect, it } from '@jest/globals';
import { build } from 'esbuild';

async function bundle(entry: string): Promise<{ bytes: number; inputs: string[] }> {
  const { outputFiles, metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    logLevel: 'silent',
  });
  return { bytes: gzipSync(outputFiles[0]!.contents, { level: 9 }).length, inputs: Object.keys(metafile.inputs) };
}

it('the client is below 3 KB, minified and gzipped, and imports nothing but itself', async () => {
  const { bytes, inputs } = await bundle('src/client/index.ts');
  expect(inputs.filter((input) => !input.startsWith('src/client/'))).toEqual([]);
  expect(bytes).toBeLessThan(3 * 1024);
});
