import { register } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';

/**
 * Jest turns this one file into CommonJS, and every import() in it into a require(), which finds neither the `.js`
 * names of TypeScript files nor top-level ESM. So the work is done in a module of its own, loaded by Node's import.
 */
export default async function globalSetup(): Promise<void> {
  register('@swc-node/register/esm', pathToFileURL(__filename));
  const load = vm.runInThisContext('(url) => import(url)', {
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  }) as (url: string) => Promise<typeof import('./test-server.js')>;

  const { startTestServer, stopTestServer } = await load(pathToFileURL(join(__dirname, 'test-server.ts')).href);
  Object.assign(globalThis, { stopTestServer });
  await startTestServer();
}
