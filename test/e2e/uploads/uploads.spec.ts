import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { FASTIFY_UPLOADS } from '../../support/versions.js';
import { waitFor } from '../../support/wait-for.js';
import { Folders, PluginUploads, uploadsOn } from './uploads.controllers.js';

const READERS = [...ADAPTERS, '@fastify/multipart'] as const;

describe.each(READERS.filter((reader) => reader !== 'fastify' || FASTIFY_UPLOADS))(
  'uploads to disk, with %s',
  (which) => {
    const folders = new Folders();
    let test: TestApp;

    beforeAll(async () => {
      await folders.make();
      const isPlugin = which === '@fastify/multipart';
      test = await createTestApp({
        adapter: isPlugin ? 'fastify' : which,
        multipart: isPlugin,
        controllers: [isPlugin ? PluginUploads : uploadsOn(which, folders)],
        providers: [{ provide: Folders, useValue: folders }],
      });
    });

    afterAll(async () => {
      await test.close();
      await folders.remove();
    });

    const upload = (path: string, key: string, content: string) =>
      test.request({
        method: 'POST',
        path: `/${path}`,
        headers: [
          ['Idempotency-Key', key],
          ['Content-Type', 'multipart/form-data; boundary=b'],
        ],
        body: `--b\r\nContent-Disposition: form-data; name="file"; filename="scan.txt"\r\nContent-Type: text/plain\r\n\r\n${content}\r\n--b--\r\n`,
      });
    /** The answer may be there before the file is gone. */
    const noneWait = async (): Promise<void> => {
      await waitFor(async () => (await folders.contents()).waiting === 0, { what: 'the deletion of uploads' });
    };
    const paths = which === '@fastify/multipart' ? ['file'] : ['file', 'lease', 'fields'];

    it.each(paths)('are kept once, and none stays behind for a replay or a 422: %s', async (path) => {
      expect((await upload(path, path, `of ${path}`)).status).toBe(201);
      await noneWait();
      const replay = await upload(path, path, `of ${path}`);
      expect(replay.headerLines).toContain('Idempotency-Replayed: true');
      await noneWait();
      expect((await upload(path, path, 'of another')).status).toBe(422);
      await noneWait();
      expect((await folders.contents()).kept.filter((content) => content.startsWith('of'))).toEqual(
        paths.slice(0, paths.indexOf(path) + 1).map((kept) => `of ${kept}`),
      );
    });

    it('are kept once by a handler that fails behind it, however often it is retried', async () => {
      for (let attempts = 0; attempts < 3; attempts++) {
        expect((await upload('file', 'fails', 'failing')).status).toBe(500);
        await noneWait();
      }
      expect((await folders.contents()).kept.filter((content) => content === 'failing')).toEqual(['failing']);
    });

    if (which !== '@fastify/multipart') {
      it('stay while the handler runs, and a 409 leaves none of its own', async () => {
        const first = upload('waits', 'waits', 'waiting');
        await folders.begun.promise;
        expect((await upload('waits', 'waits', 'waiting')).status).toBe(409);
        await waitFor(async () => (await folders.contents()).waiting === 1, { what: 'the deletion of uploads' });
        folders.goOn.resolve();
        expect((await first).status).toBe(201);
        await noneWait();
        expect((await folders.contents()).kept).toContain('waiting');
      });
    }
  },
);
