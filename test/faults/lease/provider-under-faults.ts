import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProviderCall, ProviderReceipt } from '../app/protocol.js';
import type { Random } from '../random.js';
import { LEASE_LIMITS } from '../routes.js';

/** What the provider knows of one step of one operation. */
export interface StepBooks {
  /** Attempts of the calls, in the order of their arrival. */
  calls: number[];
  /** One for each downstream key that was ever acted upon. */
  effects: ProviderReceipt[];
  /** One for each call without such a key that was acted upon. */
  unkeyed: UnkeyedEffect[];
}

export interface UnkeyedEffect extends ProviderReceipt {
  attempt: number;
  /** Whether the caller, if it was still there, learned of it. */
  isTold: boolean;
}

/** How a call goes wrong. */
type Mood = 'fine' | 'slow to act' | 'slow to answer' | 'fails' | 'fails after it acted' | 'hangs up after it acted';

/** A service with effects of its own, once for each downstream key. It lives in the suite: no fault takes its books away. */
export class ProviderUnderFaults {
  calls = 0;
  /** Steps of operations that have called. */
  steps = 0;
  effects = 0;
  unkeyedSteps = 0;
  unkeyedEffects = 0;
  private isCalm = true;
  private readonly books = new Map<string, Map<string, StepBooks>>();
  private readonly receipts = new Map<string, ProviderReceipt>();

  private constructor(
    private readonly server: Server,
    private readonly random: Random,
  ) {}

  static async start(random: Random): Promise<ProviderUnderFaults> {
    const server = createServer();
    const provider = new ProviderUnderFaults(server, random);
    server.on('request', (request, response) => {
      // The caller may be dead before it has sent all, or before it is answered.
      provider.answer(request, response).catch(() => response.destroy());
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return provider;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Whether all calls go well from now on. */
  calm(isCalm: boolean): void {
    this.isCalm = isCalm;
  }

  stepsOf(key: string): ReadonlyMap<string, StepBooks> {
    return this.books.get(key) ?? new Map<string, StepBooks>();
  }

  stop(): void {
    this.server.close();
    this.server.closeAllConnections();
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { key, step, attempt } = (await json(request)) as ProviderCall;
    const books = this.booksOf(key, step);
    books.calls.push(attempt);
    this.calls++;
    const mood = this.mood();
    if (mood === 'slow to act') {
      await this.rest();
    }
    if (mood === 'fails') {
      response.writeHead(503).end();
      return;
    }
    const isTold = mood !== 'fails after it acted' && mood !== 'hangs up after it acted';
    const downstreamKey = request.headers['idempotency-key'] as string | undefined;
    const receipt =
      downstreamKey === undefined ? this.actWithoutKey(books, attempt, isTold) : this.act(downstreamKey, books);
    if (mood === 'slow to answer') {
      await this.rest();
    }
    if (mood === 'hangs up after it acted') {
      response.destroy();
      return;
    }
    response
      .writeHead(mood === 'fails after it acted' ? 503 : 200, { 'Content-Type': 'application/json' })
      .end(JSON.stringify(receipt));
  }

  private act(downstreamKey: string, books: StepBooks): ProviderReceipt {
    let receipt = this.receipts.get(downstreamKey);
    if (receipt === undefined) {
      receipt = { id: randomUUID() };
      this.receipts.set(downstreamKey, receipt);
      books.effects.push(receipt);
      this.effects++;
    }
    return receipt;
  }

  private actWithoutKey(books: StepBooks, attempt: number, isTold: boolean): ProviderReceipt {
    const receipt = { id: randomUUID() };
    this.unkeyedSteps += books.unkeyed.length === 0 ? 1 : 0;
    this.unkeyedEffects++;
    books.unkeyed.push({ ...receipt, attempt, isTold });
    return receipt;
  }

  private booksOf(key: string, step: string): StepBooks {
    const steps = this.books.get(key) ?? new Map<string, StepBooks>();
    this.books.set(key, steps);
    let books = steps.get(step);
    if (books === undefined) {
      books = { calls: [], effects: [], unkeyed: [] };
      steps.set(step, books);
      this.steps++;
    }
    return books;
  }

  private mood(): Mood {
    return this.isCalm
      ? 'fine'
      : this.random.weighted<Mood>([
          ['fine', 12],
          ['slow to act', 2],
          ['slow to answer', 2],
          ['fails', 1],
          ['fails after it acted', 1],
          ['hangs up after it acted', 1],
        ]);
  }

  /** Up to three leases: the caller lives on renewals. */
  private rest(): Promise<void> {
    return delay(this.random.integer(10, 3 * LEASE_LIMITS.leaseMs));
  }
}
