import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { finished } from 'node:stream/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { HeldResponse } from '../../src/http/response/kept-response.js';
import type { HeldRun } from '../../src/http/response/held-run.js';
import { ResponseHold } from '../../src/http/response/response-hold.js';
import { openRequest, type OpenRequest } from '../support/raw-http.js';

/** The very one that Express has, by which much middleware waits. */
const require = createRequire(import.meta.url);
const onFinished = createRequire(require.resolve('express'))('on-finished') as (
  response: ServerResponse,
  told: () => void,
) => void;

/** Whose code runs, as the library tells by the storage that a handler runs in. */
const code = new AsyncLocalStorage<HeldRun>();

interface TestRun extends HeldRun {
  readonly ended: HeldResponse[];
  outgrown: number;
  holdsOn: boolean;
  /** Runs `work` as the handler of this run. */
  handle<T>(work: () => T): T;
}

function aRun(limits: { maxBodyBytes?: number; maxHeldBytes?: number; holdsOn?: boolean } = {}): TestRun {
  const run: TestRun = {
    maxBodyBytes: limits.maxBodyBytes ?? 1024,
    maxHeldBytes: limits.maxHeldBytes ?? 4096,
    holdsOn: limits.holdsOn ?? false,
    ended: [],
    outgrown: 0,
    isItsCode: () => code.getStore() === run,
    mustHoldOn: () => run.holdsOn,
    writer: () => (run.isItsCode() ? 'handler' : 'framework'),
    responseEnded: (response) => run.ended.push(response),
    responseOutgrown: () => run.outgrown++,
    handle: (work) => code.run(run, work),
  };
  return run;
}

let server: Server;
beforeAll(async () => {
  server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

/** A request, and the response to it that nobody has touched yet. */
async function exchange(): Promise<{ client: OpenRequest; response: ServerResponse; hold: ResponseHold }> {
  const arrived = once(server, 'request') as Promise<[unknown, ServerResponse]>;
  const { port } = server.address() as AddressInfo;
  const client = await openRequest(port, { method: 'GET', path: '/', timeoutMs: 5_000 });
  const [, response] = await arrived;
  return { client, response, hold: new ResponseHold(response) };
}

/** What has left for the client, by the count of the socket: to wait for nothing to arrive would prove nothing. */
const sentBytes = (response: ServerResponse): number => response.socket?.bytesWritten ?? 0;

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('a response that is held', () => {
  it('keeps head and bytes, tells of them once, and sends them when it is let go', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun();
    hold.begin(run);
    run.handle(() => {
      response.writeHead(202, 'Taken In', { 'X-One': 'a', 'X-Two': ['b', 'c'] });
      response.write('one ');
      response.write('dHdvIA==', 'base64');
      response.end(new Uint8Array([51]));
    });
    await turn();
    expect(sentBytes(response)).toBe(0);
    expect(run.ended).toEqual([{ status: 202, body: Buffer.from('one two 3'), bodyBytes: 9, writer: 'handler' }]);

    hold.letGo();
    const answer = await client.response;
    expect(answer.statusLine).toBe('HTTP/1.1 202 Taken In');
    expect(answer.headerLines).toEqual(
      expect.arrayContaining(['X-One: a', 'X-Two: b', 'X-Two: c', 'Content-Length: 9']),
    );
    expect(answer.body.toString()).toBe('one two 3');
  });

  it('looks to its writers like one that is sent as they go along', async () => {
    const { client, response, hold } = await exchange();
    hold.begin(aRun());
    expect([response.headersSent, response.writableEnded]).toEqual([false, false]);
    response.flushHeaders();
    expect([response.headersSent, response.writableEnded]).toEqual([true, false]);
    expect(() => response.setHeader('X-Late', '1')).toThrow(expect.objectContaining({ code: 'ERR_HTTP_HEADERS_SENT' }));
    expect(() => response.writeHead(200)).toThrow(expect.objectContaining({ code: 'ERR_HTTP_HEADERS_SENT' }));
    response.end('x');
    expect(response.writableEnded).toBe(true);
    const late = new Promise((resolve) => response.write('late', resolve));
    expect(await late).toMatchObject({ code: 'ERR_STREAM_WRITE_AFTER_END' });

    hold.letGo();
    expect((await client.response).body.toString()).toBe('x');
  });

  it('copies what it keeps, since the writer may use its buffer again', async () => {
    const { client, response, hold } = await exchange();
    hold.begin(aRun());
    const buffer = Buffer.from('before');
    response.write(buffer);
    buffer.fill('x');
    response.end();
    hold.letGo();
    expect((await client.response).body.toString()).toBe('before');
  });

  it('sends trailers behind chunks', async () => {
    const { client, response, hold } = await exchange();
    hold.begin(aRun());
    response.setHeader('Trailer', 'X-Sum');
    response.write('body');
    response.addTrailers({ 'X-Sum': '1' });
    response.end();
    hold.letGo();
    expect((await client.response).raw.toString()).toMatch(/4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n$/);
  });

  it('can be replaced, and what is written later goes nowhere', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun();
    hold.begin(run);
    response.statusMessage = 'Not This';
    response.write('not this');
    hold.replace(() => {
      response.statusCode = 503;
      response.end('instead');
    });
    response.setHeader('X-Late', '1');
    response.statusCode = 200;
    expect(response.write('late')).toBe(true);
    response.end('late');

    const answer = await client.response;
    expect([answer.statusLine, answer.body.toString()]).toEqual(['HTTP/1.1 503 Service Unavailable', 'instead']);
    expect(run.ended).toEqual([]);
  });

  it('shows those who wait for its end that it has ended, also where nobody has ended what goes nowhere', async () => {
    const { client, response, hold } = await exchange();
    hold.begin(aRun());
    const told = new Promise((resolve) => {
      response.once('finish', () => resolve([response.headersSent, response.writableEnded, response.statusCode]));
    });
    hold.replace(() => response.writeHead(203).end('replayed'));
    expect([response.headersSent, response.writableEnded]).toEqual([false, false]);
    expect(await told).toEqual([true, true, 203]);
    await client.response;
  });

  it('is an ordinary response again once it was discarded', async () => {
    const { client, response, hold } = await exchange();
    hold.begin(aRun());
    const { socket } = response.req;
    response.write('kept');
    hold.discard();
    expect(response.headersSent).toBe(false);
    expect(response.req.socket).not.toBe(socket);
    expect(response.listenerCount('newListener')).toBe(0);
    response.end('sent');
    expect((await client.response).body.toString()).toBe('sent');
  });

  it('is given up where its writer destroys it, and breaks the connection off when it is let go', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun();
    hold.begin(run);
    response.write('half');
    response.destroy();
    expect(run.ended).toEqual([{ status: 500, body: null, bodyBytes: 4, writer: 'framework' }]);
    expect(response.destroyed).toBe(false);
    hold.letGo();
    await expect(client.response).rejects.toThrow('closed before the answer was complete');
  });
});

describe('a second run on the same response', () => {
  it('begins with nothing of the first, whose code writes nowhere from then on', async () => {
    const { client, response, hold } = await exchange();
    const [first, second] = [aRun(), aRun()];
    hold.begin(first);
    first.handle(() => response.writeHead(201, { 'X-Callers': '1' }).write('first'));
    hold.begin(second);
    expect(response.headersSent).toBe(false);

    const called = first.handle(() => {
      response.setHeader('X-First', '1');
      response.writeHead(500);
      response.write('late');
      response.destroy();
      return new Promise((resolve) => response.end('late', () => resolve('called back')));
    });
    expect(await called).toBe('called back');
    expect(response.headersSent).toBe(false);

    second.handle(() => {
      response.setHeader('X-Second', '2');
      response.statusCode = 202;
      response.end('second');
    });
    expect(first.ended).toEqual([]);
    expect(second.ended).toEqual([{ status: 202, body: Buffer.from('second'), bodyBytes: 6, writer: 'handler' }]);
    hold.letGo();
    const answer = await client.response;
    expect([answer.status, answer.body.toString()]).toEqual([202, 'second']);
    expect(answer.headerLines).toContain('X-Second: 2');
    expect(answer.headerLines).not.toContain('X-First: 1');
  });
});

describe('the end of a response that is held', () => {
  it('is told to the handler when it is there, once, and to everybody else when it is sent', async () => {
    const { client, response, hold } = await exchange();
    const events: string[] = [];
    const listen = (who: string): void => {
      response.on('finish', () => events.push(`${who}: finish`));
      response.on('close', () => events.push(`${who}: close`));
      onFinished(response, () => events.push(`${who}: on-finished`));
    };
    listen('middleware');
    const run = aRun();
    hold.begin(run);
    run.handle(() => listen('handler'));
    await run.handle(() => new Promise<void>((resolve) => response.end('x', resolve)));
    await turn();
    expect(events.toSorted()).toEqual(['handler: close', 'handler: finish', 'handler: on-finished']);
    expect(sentBytes(response)).toBe(0);

    hold.letGo();
    await client.response;
    await turn();
    expect(events.slice(3).toSorted()).toEqual(['middleware: close', 'middleware: finish', 'middleware: on-finished']);
  });

  it('is told to a handler that asks only then', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun();
    hold.begin(run);
    await run.handle(async () => {
      response.end('x');
      await finished(response);
    });
    hold.letGo();
    expect((await client.response).body.toString()).toBe('x');
  });

  it('is told to the framework, by the callback of end(), only when it is sent', async () => {
    const { client, response, hold } = await exchange();
    hold.begin(aRun());
    let isCalled = false;
    response.end('x', () => (isCalled = true));
    await turn();
    expect(isCalled).toBe(false);
    hold.letGo();
    await client.response;
    await turn();
    expect(isCalled).toBe(true);
  });
});

describe('a client that goes away', () => {
  it('is not noticed while the response is held, and told of when it is let go', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun();
    hold.begin(run);
    const events: string[] = [];
    response.on('close', () => events.push('close'));
    run.handle(() => response.req.socket.on('close', () => events.push('socket')));
    const gone = once(response.socket!, 'close');
    client.destroy();
    await gone;
    await turn();
    expect(events).toEqual([]);
    expect([response.destroyed, response.closed]).toEqual([false, false]);

    run.handle(() => response.end('nobody reads this'));
    expect(run.ended).toHaveLength(1);
    hold.letGo();
    expect(events).toEqual(['close']);
    expect([response.destroyed, response.closed]).toEqual([true, true]);
  });
});

describe('a body that grows', () => {
  it('beyond the cap is told of without its bytes, and goes on streaming when it is let go', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun({ maxBodyBytes: 8 });
    hold.begin(run);
    expect(response.write('12345678')).toBe(true);
    expect(response.write('9')).toBe(false);
    expect(run.ended).toEqual([{ status: 200, body: null, bodyBytes: 9, writer: 'framework' }]);
    expect(sentBytes(response)).toBe(0);

    const drained = once(response, 'drain');
    hold.letGo();
    await drained;
    response.write('10');
    response.end();
    expect((await client.response).body.toString()).toBe('12345678910');
    expect(run.ended).toHaveLength(1);
  });

  it('beyond the cap is kept on where it must be, up to the limit of what is held', async () => {
    const { client, response, hold } = await exchange();
    const run = aRun({ maxBodyBytes: 8, maxHeldBytes: 16, holdsOn: true });
    hold.begin(run);
    expect(response.write('123456789')).toBe(true);
    expect([run.ended, run.outgrown]).toEqual([[], 0]);
    run.responseOutgrown = () => {
      run.outgrown++;
      hold.replace(() => {
        response.statusCode = 500;
        response.end('too much');
      });
    };
    expect(response.write('123456789')).toBe(true);
    expect(response.write('and on')).toBe(true);
    expect([run.ended, run.outgrown]).toEqual([[], 1]);
    const answer = await client.response;
    expect([answer.status, answer.body.toString()]).toEqual([500, 'too much']);
  });
});
