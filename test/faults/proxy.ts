import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { Random } from './random.js';
import type { Violation } from './oracle.js';
import { BatchReader, isCompleteAnswer, type Phase, ProcessIdReader, processToCancel } from './wire.js';

export const PHASES = ['claim', 'handler', 'record', 'rollback', 'renewal', 'step'] as const satisfies Phase[];

/** Where a connection breaks, or hangs: at the message of the application, or at PostgreSQL's answer to it. */
export const PLACES = [
  'cut before the message',
  'cut in the message',
  'cut behind the message',
  'cut before the answer',
  'cut in the answer',
  'cut behind the answer',
  'message stalled',
  'answer stalled',
  'both delayed',
] as const;
export type Place = (typeof PLACES)[number] | 'message duplicated';
export type FaultName = `${Phase}: ${Place}`;

export const FAULT_NAMES: readonly FaultName[] = PHASES.flatMap((phase) =>
  PLACES.map((place): FaultName => `${phase}: ${place}`),
);

/** A message, or several that wait for one answer, and what they are for. */
export interface Message<P extends string> {
  bytes: Buffer;
  phase: P | undefined;
}

/** How a protocol tells where its messages and answers end. */
export interface Framing<P extends string> {
  /** Of one connection. */
  messages(): { push(chunk: Buffer): Message<P>[] };
  isCompleteAnswer(bytes: Buffer): boolean;
}

const POSTGRES: Framing<Phase> = { messages: () => new BatchReader(), isCompleteAnswer };

interface Fault {
  place: Place;
  /** Messages of its phase that pass before it strikes. */
  letPass: number;
  struck: () => void;
}

/** What the other side of a stalled link does by itself comes earlier: the server ends an idle transaction after 6 s. */
const STALLED_SERVER_MS = 7_000;

/** As good as for ever: a library that waits for an answer without a limit is found out before. */
const STALLED_CLIENT_MS = 60_000;

/** Their batches end with the COMMIT of what a handler or step has done. */
const COMMITTING: readonly unknown[] = ['record', 'step'];

/** Between application and PostgreSQL, or whoever talks another protocol: it hands everything on, and breaks what it was told to. */
export class FaultProxy<P extends string = Phase> {
  private readonly armed = new Map<P, Fault[]>();
  private readonly sockets = new Set<Socket>();
  /** By the process that serves it. */
  private readonly links = new Map<number, Link<P>>();
  private cancelledCommits: Violation[] = [];

  private constructor(
    private readonly server: Server,
    private readonly target: () => number,
    private readonly random: Random,
    private readonly framing: Framing<P>,
  ) {}

  static start(target: number, random: Random): Promise<FaultProxy> {
    return FaultProxy.between(() => target, random, POSTGRES);
  }

  /** @param target the port of each new connection */
  static async between<P extends string>(
    target: () => number,
    random: Random,
    framing: Framing<P>,
  ): Promise<FaultProxy<P>> {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    const proxy = new FaultProxy(server, target, random, framing);
    server.on('connection', (client) => proxy.join(client));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  arm(name: `${P}: ${Place}`, letPass: number, struck: () => void): void {
    const [phase, place] = name.split(': ') as [P, Place];
    this.armed.set(phase, [...(this.armed.get(phase) ?? []), { place, letPass, struck }]);
  }

  armedFor(phase: P): number {
    return this.armed.get(phase)?.length ?? 0;
  }

  disarm(): void {
    this.armed.clear();
  }

  /**
   * Requests to cancel a COMMIT, which the application must never send: one that waits for a replica would be
   * acknowledged without it. Each is told once.
   */
  takeViolations(): Violation[] {
    const violations = this.cancelledCommits;
    this.cancelledCommits = [];
    return violations;
  }

  stop(): void {
    this.server.close();
    this.sockets.forEach((socket) => socket.destroy());
  }

  private join(client: Socket): void {
    const connectToTarget = () =>
      connect({ port: this.target(), host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
    const server = connectToTarget();
    const link = new Link(
      client,
      server,
      this.framing,
      {
        faultFor: (phase) => this.next(phase),
        isServedBy: (processId) => this.links.set(processId, link),
        cancels: (processId) => this.noteCancel(processId),
        duplicate: (bytes) => {
          const second = connectToTarget();
          this.sockets.add(second);
          second.on('error', () => undefined).on('close', () => this.sockets.delete(second));
          second.end(bytes);
          second.resume();
        },
      },
      this.random,
    );
    for (const socket of [client, server]) {
      this.sockets.add(socket);
      socket.on('error', () => link.closed(socket));
      socket.on('close', () => {
        this.sockets.delete(socket);
        link.closed(socket);
      });
      socket.on('end', () => link.ended(socket));
    }
    client.on('data', (chunk: Buffer) => link.fromClient(chunk));
    server.on('data', (chunk: Buffer) => link.fromServer(chunk));
  }

  private noteCancel(processId: number): void {
    const { phase } = this.links.get(processId) ?? {};
    if (COMMITTING.includes(phase)) {
      this.cancelledCommits.push({ rule: 'COMMIT cancelled', key: '', detail: `while it was about ${phase}` });
    }
  }

  private next(phase: P): Place | undefined {
    const faults = this.armed.get(phase);
    const [fault] = faults ?? [];
    if (fault === undefined || fault.letPass-- > 0) {
      return undefined;
    }
    faults!.shift();
    fault.struck();
    return fault.place;
  }
}

interface LinkEvents<P extends string> {
  faultFor(phase: P): Place | undefined;
  isServedBy(processId: number): void;
  /** It is no connection to a server, but asks for what another one is busy with to be cancelled. */
  cancels(processId: number): void;
  /** The server gets the message once more, by a connection whose answers nobody reads. */
  duplicate(bytes: Buffer): void;
}

/** One connection through the proxy. */
class Link<P extends string> {
  /** Of the last message from the application. */
  phase: P | undefined;
  private readonly reader: ReturnType<Framing<P>['messages']>;
  private readonly processId = new ProcessIdReader();
  /** The fault that waits for the answer, and what of the answer is there. */
  private awaiting: { place: Place; answer: Buffer } | undefined;
  private stalled = false;

  constructor(
    private readonly client: Socket,
    private readonly server: Socket,
    private readonly framing: Framing<P>,
    private readonly events: LinkEvents<P>,
    private readonly random: Random,
  ) {
    this.reader = framing.messages();
  }

  fromClient(chunk: Buffer): void {
    for (const batch of this.reader.push(chunk)) {
      const cancelled = processToCancel(batch.bytes);
      if (cancelled !== undefined) {
        this.events.cancels(cancelled);
      }
      this.phase = batch.phase;
      this.handOn(batch);
    }
  }

  fromServer(chunk: Buffer): void {
    const processId = this.processId.push(chunk);
    if (processId !== undefined) {
      this.events.isServedBy(processId);
    }
    if (this.stalled) {
      return;
    }
    if (this.awaiting === undefined) {
      this.client.write(chunk);
      return;
    }
    this.awaiting.answer = Buffer.concat([this.awaiting.answer, chunk]);
    if (this.framing.isCompleteAnswer(this.awaiting.answer)) {
      const { place, answer } = this.awaiting;
      this.awaiting = undefined;
      this.answerWith(place, answer);
    }
  }

  /** A stalled link tells neither side what the other does, as a network that lost it would. */
  ended(socket: Socket): void {
    if (!this.stalled) {
      (socket === this.client ? this.server : this.client).end();
    }
  }

  closed(socket: Socket): void {
    if (!this.stalled) {
      (socket === this.client ? this.server : this.client).end();
    }
  }

  private handOn({ bytes, phase }: Message<P>): void {
    if (this.stalled) {
      return;
    }
    const place = phase === undefined ? undefined : this.events.faultFor(phase);
    switch (place) {
      case undefined:
        this.server.write(bytes);
        break;
      case 'cut before the message':
        this.cut();
        break;
      case 'cut in the message':
        this.server.write(bytes.subarray(0, this.random.integer(1, bytes.length - 1)), () => this.cut());
        break;
      case 'cut behind the message':
        // PostgreSQL gets all of it, and carries it out before it notices that nobody listens.
        this.server.end(bytes);
        this.cutClient();
        break;
      case 'message duplicated':
        this.server.write(bytes);
        this.events.duplicate(bytes);
        break;
      case 'message stalled':
        this.stall();
        break;
      case 'answer stalled':
        this.server.write(bytes);
        this.stall();
        break;
      case 'both delayed':
        this.awaiting = { place, answer: Buffer.alloc(0) };
        setTimeout(() => this.server.write(bytes), this.random.integer(5, 100));
        break;
      case 'cut before the answer':
      case 'cut in the answer':
      case 'cut behind the answer':
        this.awaiting = { place, answer: Buffer.alloc(0) };
        this.server.write(bytes);
        break;
    }
  }

  private answerWith(place: Place, answer: Buffer): void {
    switch (place) {
      case 'cut before the answer':
        this.cut();
        break;
      case 'cut in the answer':
        this.client.write(answer.subarray(0, this.random.integer(1, answer.length - 1)), () => this.cut());
        break;
      case 'cut behind the answer':
        this.client.write(answer, () => this.cut());
        break;
      default:
        setTimeout(() => this.client.write(answer), this.random.integer(5, 100));
    }
  }

  private cut(): void {
    this.cutClient();
    this.server.destroy();
  }

  /** Some breaks arrive as a regular end, others as a reset. */
  private cutClient(): void {
    if (this.random.chance(0.5)) {
      this.client.resetAndDestroy();
    } else {
      this.client.destroy();
    }
  }

  private stall(): void {
    this.stalled = true;
    setTimeout(() => this.server.destroy(), STALLED_SERVER_MS).unref();
    setTimeout(() => this.client.destroy(), STALLED_CLIENT_MS).unref();
  }
}
