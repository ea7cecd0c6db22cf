import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, expect, it } from '@jest/globals';
import { replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { onTheWire } from './on-the-wire.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { application, send, runs } = onTheWire(adapter);

  describe('a connection', () => {
    const message = (key: string, headers = '', version = 'HTTP/1.1') =>
      `POST /orders ${version}\r\nHost: h\r\nContent-Type: application/json\r\nIdempotency-Key: ${key}\r\n${headers}` +
      `Content-Length: ${JSON.stringify({ label: key }).length}\r\n\r\n${JSON.stringify({ label: key })}`;

    /** Sends each message when the one before is answered; tells all that came until the server hung up. */
    async function converse(...messages: string[]): Promise<string> {
      const socket = connect(application().port, '127.0.0.1');
      let received = '';
      socket.setEncoding('latin1').on('data', (data: string) => {
        received += data;
        if (received.endsWith('}') && messages.length > 0) {
          socket.write(messages.shift()!);
        }
      });
      socket.write(messages.shift()!);
      await once(socket, 'close');
      return received;
    }

    /** Status, marker and body of each response. */
    const answersIn = (received: string) =>
      received
        .split('HTTP/1.1 ')
        .slice(1)
        .map((answer) => `${answer.slice(0, 3)} ${/-Replayed: true/.test(answer)} ${/\{.*\}/.exec(answer)?.[0]}`);

    it('may carry a request and its retries one after another, and other requests between them', async () => {
      const [first, other, retry, last] = answersIn(
        await converse(
          message('alive-1'),
          message('alive-2'),
          message('alive-1'),
          message('alive-2', 'Connection: close\r\n'),
        ),
      );
      expect(first).toMatch(/^201 false .*"label":"alive-1"/);
      expect(other).toMatch(/^201 false .*"label":"alive-2"/);
      expect(retry).toBe(first!.replace('false', 'true'));
      expect(last).toBe(other!.replace('false', 'true'));
    });

    it('may carry a request and its retry at once: one of them runs, and the answers keep their order', async () => {
      const pipelined = message('piped') + message('piped') + message('piped-other', 'Connection: close\r\n');
      const [first, second, other, ...none] = answersIn(await converse(pipelined));
      // Each has a connection to the database of its own, so the second may be there first.
      const [ran, told] = first!.startsWith('201 false') ? [first!, second] : [second!, first];
      expect(ran).toMatch(/^201 false .*"label":"piped"/);
      expect([ran.replace('false', 'true'), expect.stringMatching(/^409 false .*request-in-flight/)]).toContainEqual(
        told,
      );
      expect(other).toMatch(/^201 false .*"label":"piped-other"/);
      expect(none).toEqual([]);
      expect(await runs('piped')).toBe(1);
      expect(answersIn(await converse(message('piped', 'Connection: close\r\n')))).toEqual([
        ran.replace('false', 'true'),
      ]);
    });

    it('may be one of HTTP/1.0', async () => {
      const first = await converse(message('old', '', 'HTTP/1.0'));
      const retry = await converse(message('old', '', 'HTTP/1.0'));
      expect(answersIn(first)).toEqual([expect.stringMatching(/^201 false .*"label":"old"/)]);
      expect(answersIn(retry)).toEqual([answersIn(first)[0]!.replace('false', 'true')]);
      for (const answer of [first, retry]) {
        expect(answer).not.toMatch(/^transfer-encoding/im);
      }
    });

    it('may ask before it sends the body', async () => {
      const expecting = { headers: [['Expect', '100-continue']] as const };
      const first = await send('/orders', 'expecting', expecting);
      expect(first.raw.toString()).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 201 /);
      expect(await send('/orders', 'expecting', expecting)).toEqual(replayOf(first));
    });

    it('may send the body in chunks: it is the same request', async () => {
      const body = JSON.stringify({ label: 'chunked' });
      const first = await send('/orders', 'chunked', { body });
      const chunked = {
        headers: [['Transfer-Encoding', 'chunked']] as const,
        body: `5\r\n${body.slice(0, 5)}\r\n${(body.length - 5).toString(16)}\r\n${body.slice(5)}\r\n0\r\n\r\n`,
      };
      expect(await send('/orders', 'chunked', chunked)).toEqual(replayOf(first));
    });
  });
});
