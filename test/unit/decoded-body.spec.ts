import { EventEmitter, once } from 'node:events';
import { type IncomingMessage, ServerResponse } from 'node:http';
import { describe, expect, it } from '@jest/globals';
import { sendInParts } from '../../src/http/response/decoded-body.js';

const MIB = 1024 * 1024;

describe('a body that is sent in parts', () => {
  /** To a connection that takes nothing. */
  const start = () => {
    const socket = Object.assign(new EventEmitter(), { destroyed: false });
    const request = { method: 'POST', httpVersionMajor: 1, httpVersionMinor: 1, socket };
    const response = new ServerResponse(request as unknown as IncomingMessage);
    const events = new EventEmitter();
    const parts = (async function* () {
      try {
        for (let part = 1; ; part++) {
          events.emit('asked', part);
          yield Buffer.alloc(MIB);
        }
      } finally {
        events.emit('returned');
      }
    })();
    return { socket, response, parts, events, returned: once(events, 'returned') };
  };
  const begin = async ({ response, parts }: ReturnType<typeof start>): Promise<void> => {
    const { value } = (await parts.next()) as { value: Buffer };
    sendInParts(response, value, parts);
  };

  it.each<[string, (to: ReturnType<typeof start>) => void]>([
    ['with its response', ({ response }) => response.emit('close')],
    ['with its connection, behind another response', ({ socket }) => socket.emit('close')],
  ])('is read no further when its client goes away %s', async (_, leave) => {
    const sending = start();
    await begin(sending);
    leave(sending);
    await sending.returned;
    expect(sending.socket.listenerCount('close')).toBe(0);
  });

  it('is not read at all where its client has gone before', async () => {
    const sending = start();
    sending.socket.destroyed = true;
    await begin(sending);
    expect(await sending.returned).toEqual([]);
  });

  it('is read no faster than the client takes it', async () => {
    const sending = start();
    const asked: number[] = [];
    sending.events.on('asked', (part: number) => asked.push(part));
    await begin(sending);
    expect(asked).toEqual([1]);
    sending.response.emit('drain');
    await once(sending.events, 'asked');
    expect(asked).toEqual([1, 2]);
    sending.response.emit('close');
    await sending.returned;
  });
});
