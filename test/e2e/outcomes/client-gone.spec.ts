import { describe, expect, it } from '@jest/globals';
import { openRequest } from '../../support/raw-http.js';
import { json } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { LEAVES_STREAMS_OPEN } from '../../support/versions.js';
import { waitFor } from '../../support/wait-for.js';
import { Slow } from './client-gone.controller.js';
import { outcomesOn } from './outcomes-on.js';
import { gates, notes } from './stage.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { application, send, effects, isStored } = outcomesOn(adapter, [Slow]);

  describe('a client that goes away', () => {
    const disconnect = async (path: string) => {
      const { destroy, response } = await openRequest(application().port, {
        method: 'POST',
        path: `/${path}`,
        headers: [
          ['Content-Type', 'application/json'],
          ['Idempotency-Key', path],
        ],
        body: JSON.stringify({ label: path }),
      });
      await gates.entered(path);
      const sockets = async () => {
        const counts = application().instances.map(
          ({ app }) =>
            new Promise<number>((resolve) => app.getHttpServer().getConnections((_: unknown, n: number) => resolve(n))),
        );
        return (await Promise.all(counts)).reduce((sum, count) => sum + count);
      };
      const before = await sockets();
      destroy();
      await waitFor(async () => (await sockets()) < before, { what: 'the server to notice' });
      gates.open(path);
      return response.catch((error: Error) => error.message);
    };

    it.each([
      ['JSON', 'slow-json', '{"label":"slow-json","text":"of the first run"}'],
      ['an Observable', 'slow-observable', '{"label":"slow-observable","text":"of the first run"}'],
      ['a stream', 'slow-stream', 'of the first run'],
      ['@Res()', 'slow-res', 'of the first run'],
    ])('does not cancel the operation, and gets the replay when it comes again: %s', async (_, path, body) => {
      expect(await disconnect(path)).toContain('Received 0 bytes'); // nothing leaves before COMMIT
      await waitFor(() => isStored(path), { what: 'the response to be recorded' });
      const replay = await send(path);
      expect(replay).toMatchObject({
        status: 201,
        headerLines: expect.arrayContaining(['Idempotency-Replayed: true']),
      });
      expect(replay.body.toString()).toBe(body);
      expect(await effects(path)).toBe(1);
      expect(notes.get(path)).toEqual(['ran']);
    });

    it('does not cancel the operation when its response is too large to keep, and lets go of the stream', async () => {
      await disconnect('large-stream');
      await waitFor(() => isStored('large-stream'), { what: 'the tombstone' });
      const isClosed = adapter === 'fastify' || !LEAVES_STREAMS_OPEN;
      await waitFor(() => !isClosed || notes.get('large-stream')?.includes('stream closed'), {
        what: 'the stream to be closed',
      });
      expect(json(await send('large-stream'))).toMatchObject({
        type: 'urn:nestjs-idempotency:response-not-kept',
        original_status: 201,
      });
      expect(await effects('large-stream')).toBe(1);
      expect(notes.get('large-stream')).toEqual(isClosed ? ['ran', 'stream closed'] : ['ran']);
    });
  });
});
