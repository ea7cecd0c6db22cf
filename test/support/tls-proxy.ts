import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls';

/** The first eight bytes of a connection that asks for encryption, and of one that asks for a cancel (PostgreSQL manual, 54.7). */
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
const CANCEL_REQUEST = Buffer.from([0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e]);
const TLS_HANDSHAKE = 0x16;

/** A key that both sides know needs no certificate. */
const KEY = { psk: Buffer.alloc(32, 7), identity: 'client' };
const PSK_ONLY = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;

/** Takes what comes encrypted, and nothing else, to a PostgreSQL server without TLS. */
export class TlsProxy {
  /** Connections that were not encrypted. */
  plain = 0;
  cancelRequests = 0;
  /** For pg, as its `ssl`. */
  readonly ssl = { ...PSK_ONLY, pskCallback: () => KEY, checkServerIdentity: () => undefined };
  private readonly sockets: Socket[] = [];
  private readonly server: Server;
  private readonly decrypting: TlsServer;

  private constructor(private readonly target: URL) {
    this.server = createServer((socket) => void this.admit(socket));
    this.decrypting = createTlsServer(
      { ...PSK_ONLY, ALPNProtocols: ['postgresql'], pskCallback: () => KEY.psk },
      (socket) => void this.pass(socket),
    );
    this.decrypting.on('tlsClientError', () => undefined);
  }

  static async start(databaseUrl: string): Promise<TlsProxy> {
    const proxy = new TlsProxy(new URL(databaseUrl));
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  stop(): void {
    this.sockets.forEach((socket) => socket.destroy());
    this.server.close();
  }

  private async admit(socket: Socket): Promise<void> {
    this.sockets.push(socket.on('error', () => undefined));
    const [first] = (await once(socket, 'data')) as [Buffer];
    socket.pause();
    if (first.equals(SSL_REQUEST)) {
      socket.write('S');
    } else if (first[0] === TLS_HANDSHAKE) {
      socket.unshift(first);
    } else {
      this.plain++;
      socket.destroy();
      return;
    }
    this.decrypting.emit('connection', socket);
  }

  private async pass(client: TLSSocket): Promise<void> {
    client.on('error', () => undefined);
    const server = connect(Number(this.target.port), this.target.hostname).on('error', () => undefined);
    this.sockets.push(server);
    client.on('close', () => server.destroy());
    server.on('close', () => client.destroy());
    const [first] = (await once(client, 'data')) as [Buffer];
    if (first.subarray(0, CANCEL_REQUEST.length).equals(CANCEL_REQUEST)) this.cancelRequests++;
    server.write(first);
    client.pipe(server).pipe(client);
  }
}
