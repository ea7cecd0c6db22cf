import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';
import type { AddressInfo } from 'node:net';

/** What goes wrong, set with `POST /switches`. */
interface Switches {
  /** Each call acts at once, and is answered that much later, in milliseconds. */
  slow_ms: number;
  /** So many of the next calls are answered with 503, and do nothing. */
  fail: number;
  /** So many of the next calls act, and are cut off instead of answered. */
  drop: number;
}

interface ProviderSession {
  session_id: string;
  url: string;
}

export interface FakeProvider {
  url: string;
  stop(): Promise<void>;
}

/**
 * Stands for a provider of identity checks, on a free port of 127.0.0.1: an HTTP service that no transaction of ours can
 * undo. As such providers do, it makes one session for an `Idempotency-Key`, however often it is called with it.
 */
export async function startFakeProvider(): Promise<FakeProvider> {
  const switches: Switches = { slow_ms: 0, fail: 0, drop: 0 };
  const sessions = new Map<string, ProviderSession>();
  const wires: object[] = [];
  let calls = 0;

  function createSession(request: IncomingMessage, response: ServerResponse): void {
    calls += 1;
    if (switches.fail > 0) {
      switches.fail -= 1;
      return answer(response, 503, { message: 'Out of order, as asked for' });
    }
    const key = request.headers['idempotency-key'];
    if (typeof key !== 'string') return answer(response, 400, { message: 'Idempotency-Key is missing' });
    const id = randomUUID();
    const session = sessions.get(key) ?? { session_id: id, url: `https://verify.example/${id}` };
    sessions.set(key, session);
    if (switches.drop > 0) {
      switches.drop -= 1;
      request.socket.destroy();
      return;
    }
    setTimeout(() => answer(response, 201, session), switches.slow_ms).unref();
  }

  /** As banks do that know no keys. */
  function sendWire(body: object, response: ServerResponse): void {
    const wire = { wire_id: randomUUID(), ...body };
    wires.push(wire);
    setTimeout(() => answer(response, 201, wire), switches.slow_ms).unref();
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = request.method === 'POST' ? ((await json(request)) as object) : {};
    switch (`${request.method} ${request.url}`) {
      case 'POST /sessions':
        return createSession(request, response);
      case 'POST /wires':
        return sendWire(body, response);
      case 'GET /wires':
        return answer(response, 200, wires);
      case 'POST /switches':
        return answer(response, 200, Object.assign(switches, body));
      case 'GET /stats':
        return answer(response, 200, { calls, sessions: sessions.size });
      default:
        return answer(response, 404, { message: `There is no ${request.method} ${request.url}` });
    }
  }

  const server = createServer((request, response) => {
    serve(request, response).catch((error: unknown) => answer(response, 400, { message: String(error) }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
}
