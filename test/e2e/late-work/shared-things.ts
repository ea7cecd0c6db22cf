import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { once } from 'node:events';

/** A server that says each line again. */
export async function startEcho(): Promise<Server> {
  const server = createServer((socket) => socket.on('error', () => undefined).pipe(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

/**
 * A client as drivers of brokers and caches are: its one socket is opened when it is first used, and what comes in is
 * handled where it comes in.
 */
export class LazyClient {
  private socket: Socket | undefined;
  private readonly waiting: { resolve: (value: unknown) => void; reject: (reason: unknown) => void }[] = [];

  constructor(
    private readonly server: Server,
    private readonly handle: (line: string) => Promise<unknown>,
    /** Calls what opens the socket. */
    private readonly open: (work: () => Socket) => Socket = (work) => work(),
  ) {}

  /** Settles as what the answer was handled by. */
  ask(line: string): Promise<unknown> {
    this.socket ??= this.open(() => this.connect());
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.socket!.write(`${line}\n`);
    });
  }

  close(): void {
    this.socket?.destroy();
  }

  private connect(): Socket {
    const { port } = this.server.address() as AddressInfo;
    const socket = connect(port, '127.0.0.1');
    socket.setEncoding('utf8');
    socket.on('error', () => undefined);
    socket.on('data', (lines) => {
      for (const line of String(lines).trim().split('\n')) {
        const { resolve, reject } = this.waiting.shift()!;
        this.handle(line).then(resolve, reject);
      }
    });
    return socket;
  }
}

/** One at a time, as mutexes with callbacks do it: who lets go wakes the next. */
export class LockQueue {
  private isTaken = false;
  private readonly waiting: (() => void)[] = [];

  take(work: () => void): void {
    if (this.isTaken) {
      this.waiting.push(work);
    } else {
      this.isTaken = true;
      work();
    }
  }

  get length(): number {
    return this.waiting.length;
  }

  letGo(): void {
    const next = this.waiting.shift();
    if (next === undefined) {
      this.isTaken = false;
    } else {
      next();
    }
  }
}

/** What is asked for in one turn of the event loop is asked once, in the context of who came first, as DataLoader does. */
export class Batcher<T> {
  private batch: { key: string; resolve: (value: T) => void; reject: (reason: unknown) => void }[] = [];

  constructor(private readonly load: (keys: string[]) => Promise<T[]>) {}

  get(key: string): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.batch.push({ key, resolve, reject }) === 1) {
        setImmediate(() => this.dispatch());
      }
    });
  }

  private dispatch(): void {
    const { batch } = this;
    this.batch = [];
    this.load(batch.map(({ key }) => key)).then(
      (values) => batch.forEach(({ resolve }, index) => resolve(values[index]!)),
      (error: unknown) => batch.forEach(({ reject }) => reject(error)),
    );
  }
}
