import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export interface Received {
  method: string;
  headers: IncomingHttpHeaders;
  body: string;
}

/** How it answers: a status with headers and body, nothing at all, or by hand. */
export type Script =
  | { status: number; headers?: Record<string, string>; body?: object | string }
  | 'cut'
  | ((response: ServerResponse) => void);

/** A real server that answers one request after the other as it is told to, and the last way from then on. */
export class ScriptedServer {
  readonly received: Received[] = [];
  private script: Script[] = [];

  private constructor(private readonly server: ReturnType<typeof createServer>) {}

  static async start(): Promise<ScriptedServer> {
    const server = createServer({ keepAlive: true });
    const scripted = new ScriptedServer(server);
    server.on('request', async (request, response) => {
      const body = await text(request).catch(() => '');
      scripted.received.push({ method: request.method!, headers: request.headers, body });
      const [next] = scripted.script.length > 1 ? scripted.script.splice(0, 1) : scripted.script;
      if (next === 'cut' || next === undefined) return void request.socket.destroy();
      if (typeof next === 'function') return next(response);
      const content = typeof next.body === 'object' ? JSON.stringify(next.body) : (next.body ?? '');
      response.writeHead(next.status, { 'Content-Type': 'application/json', ...next.headers }).end(content);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return scripted;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
  }

  get keys(): unknown[] {
    return this.received.map(({ headers }) => headers['idempotency-key']);
  }

  answers(...script: Script[]): void {
    this.script = script;
    this.received.length = 0;
  }

  stop(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}

export const problem = (status: number, slug: string, headers: Record<string, string> = {}): Script => ({
  status,
  headers: { 'Content-Type': 'application/problem+json', ...headers },
  body: { type: `urn:nestjs-idempotency:${slug}`, title: slug, status, detail: `This is ${slug}.` },
});
