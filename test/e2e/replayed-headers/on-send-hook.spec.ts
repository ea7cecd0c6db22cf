import { describe, expect, it } from '@jest/globals';
import type { FastifyAdapter } from '@nestjs/platform-fastify';
import { json, lines } from '../../support/response.js';
import { createTestApp } from '../../support/test-app.js';
import { Handlers } from './handlers.controller.js';
import { REPLAYED } from './headers-on.js';

describe('the headers of a replay behind an onSend hook, which only Fastify has', () => {
  it('are those of the first response, whose body the hook has changed once', async () => {
    let sent = 0;
    const test = await createTestApp({
      adapter: 'fastify',
      controllers: [Handlers],
      configure: (app) => {
        (app.getHttpAdapter() as FastifyAdapter).getInstance().addHook('onSend', async (_, reply, payload) => {
          sent++;
          void reply.header('x-sent', String(sent)).header('x-request-id', `sent-${sent}`);
          return `{"sent":${sent},"payload":${String(payload)}}`;
        });
      },
    });
    try {
      const send = (path: string) =>
        test.request({ method: 'POST', path: `/${path}`, headers: [['Idempotency-Key', 'k']] });
      const first = await send('plain');
      expect(json(first)).toEqual({ sent: 1, payload: { plain: true } });
      const replay = await send('plain');
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.equals(first.body)).toBe(true);
      expect(lines(replay, 'x-sent')).toEqual(['1']);
      const problem = await send('plain?x');
      expect(problem.status).toBe(422);
      expect(lines(problem, 'x-sent')).toEqual([String(sent)]);
    } finally {
      await test.close();
    }
  });
});
