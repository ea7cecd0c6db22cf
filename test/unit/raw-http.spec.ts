import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from '@jest/globals';
import { openRequest, rawRequest, withoutVolatile } from '../support/raw-http.js';

let server: Server | undefined;
let requests: string[] = [];

/** A server that answers every connection with these pieces, byte for byte, each after the client took the last one. */
async function answering(pieces: string[], { keepOpen = false } = {}): Promise<number> {
  requests = [];
  server = createServer((socket: Socket) => {
    socket.on('error', () => {});
    socket.once('data', async (chunk) => {
      requests.push(chunk.toString('latin1'));
      for (const piece of pieces) await new Promise((resolve) => socket.write(piece, 'latin1', resolve));
      if (!keepOpen) socket.end();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

afterEach(() => {
  server?.close();
});

const GET = { method: 'GET', path: '/' };

describe('the raw HTTP client of the tests', () => {
  it('keeps order, case and repetition of the header lines', async () => {
    const port = await answering(['HTTP/1.1 200 OK\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nContent-Length: 2\r\n\r\nhi']);
    const response = await rawRequest(port, GET);
    expect(response).toMatchObject({ statusLine: 'HTTP/1.1 200 OK', status: 200 });
    expect(response.headerLines).toEqual(['X-B: 1', 'x-a: 2', 'X-B: 3', 'Content-Length: 2']);
    expect(response.body.toString()).toBe('hi');
  });

  it('joins chunks, wherever the network cut them', async () => {
    const message =
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n';
    const port = await answering([...message], { keepOpen: true });
    const response = await rawRequest(port, GET);
    expect(response.body.toString()).toBe('abc0123456789');
    expect(response.raw.toString('latin1')).toBe(message);
  });

  it('reads to the end of the connection when nothing else ends the body', async () => {
    const port = await answering(['HTTP/1.1 200 OK\r\n\r\n', 'a', 'b']);
    expect((await rawRequest(port, GET)).body.toString()).toBe('ab');
  });

  it('expects no body after HEAD, 204 and 304', async () => {
    const port = await answering(['HTTP/1.1 204 No Content\r\n\r\n'], { keepOpen: true });
    expect((await rawRequest(port, GET)).body).toHaveLength(0);
  });

  it('skips an interim answer', async () => {
    const port = await answering([
      'HTTP/1.1 100 Continue\r\n\r\n',
      'HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n',
    ]);
    expect((await rawRequest(port, GET)).status).toBe(201);
  });

  it('sends headers as given and adds only what is missing', async () => {
    const port = await answering(['HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n']);
    const headers = [
      ['a', '1'],
      ['A', '2'],
    ] as const;
    await rawRequest(port, { method: 'POST', path: '/x?y', headers, body: 'é' });
    expect(requests[0]).toBe(
      `POST /x?y HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\na: 1\r\nA: 2\r\nContent-Length: 2\r\n\r\nÃ©`,
    );
  });

  it('says what arrived when the answer breaks off, is late, or is followed by more', async () => {
    const cut = await answering(['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab']);
    await expect(rawRequest(cut, GET)).rejects.toThrow(/closed before the answer was complete.*ab"$/);
    server?.close();
    const late = await answering(['HTTP/1.1 200'], { keepOpen: true });
    await expect(rawRequest(late, { ...GET, timeoutMs: 50 })).rejects.toThrow(/within 50 ms.*"HTTP\/1\.1 200"$/);
    server?.close();
    const twice = await answering(['HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab']);
    await expect(rawRequest(twice, GET)).rejects.toThrow(/no HTTP\/1\.1/);
  });

  it('lets a test go away in the middle of a request', async () => {
    const port = await answering([], { keepOpen: true });
    const gone = once(server!, 'connection').then(([socket]) => once(socket as Socket, 'close'));
    const request = await openRequest(port, { ...GET, headers: [['Content-Length', '9']], body: 'half' });
    request.destroy();
    await gone;
    await expect(request.response).rejects.toThrow(/closed before/);
  });

  it('leaves volatile lines out', () => {
    expect(withoutVolatile(['Date: x', 'A: 1', 'connection: close', 'Keep-Alive: y', 'Dated: 1'])).toEqual([
      'A: 1',
      'Dated: 1',
    ]);
  });
});
