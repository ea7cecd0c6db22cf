import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { array, assert, asyncProperty, constantFrom } from 'fast-check';
import { idempotent, operation, type WebStorage } from '../../src/client/index.js';
import { PaymentsApi } from '../clients/payments-api.js';
import type { UnreliableNetwork } from '../clients/unreliable-network.js';
import { type Place, PLACES } from '../faults/proxy.js';
import { ADAPTERS } from '../support/test-app.js';

/** What may befall an operation: faults of the network, and what people do. */
const MISHAPS = [...PLACES, 'message duplicated', 'passes', 'reload', 'second click', 'second tab'] as const;
type Mishap = (typeof MISHAPS)[number];

const isFault = (mishap: Mishap): mishap is Place =>
  !(['passes', 'reload', 'second click', 'second tab'] as Mishap[]).includes(mishap);

/** The tests have no time: an answer that asks for some is asked again at once. */
const impatientFetch: typeof fetch = async (input, init) => {
  const { status, headers, body } = await fetch(input, init);
  const sooner = new Headers(headers);
  sooner.delete('Retry-After');
  return new Response(body, { status, headers: sooner });
};

class Tabs implements WebStorage {
  private readonly entries = new Map<string, string>();
  getItem = (name: string) => this.entries.get(name) ?? null;
  setItem = (name: string, value: string) => void this.entries.set(name, value);
  removeItem = (name: string) => void this.entries.delete(name);
}

describe.each(ADAPTERS)('the client through a network that breaks, with %s', (adapter) => {
  let api: PaymentsApi;
  let network: UnreliableNetwork;

  beforeAll(async () => {
    api = await PaymentsApi.start(adapter);
    network = await api.network();
  });

  afterAll(() => api.close());

  it('has one effect whatever befalls it, and tells of a success when there is one', async () => {
    await assert(
      asyncProperty(array(constantFrom(...MISHAPS), { maxLength: 6 }), async (history) => {
        network.heal();
        let letPass = 0;
        for (const mishap of history) {
          if (isFault(mishap)) network.break(mishap, letPass);
          letPass = mishap === 'passes' ? letPass + 1 : 0;
        }
        const payment = api.payment();
        const storage = new Tabs();
        const open = () => {
          const pay = idempotent(impatientFetch, { baseDelayMs: 5, attemptTimeoutMs: 250, deadlineMs: 20_000 });
          return (signal?: AbortSignal) =>
            pay(`${network.url}/v1/payments`, {
              method: 'POST',
              headers: { 'Content-Type': 'application/json' },
              body: JSON.stringify(payment),
              operation: operation(payment.destination, storage),
              ...(signal && { signal }),
            });
        };

        let page = open();
        const told: Response[] = [];
        for (const mishap of history) {
          if (mishap !== 'reload') continue;
          // Left while the request is on its way; what the page would have been told nobody hears, unless it came at once.
          const left = new AbortController();
          const call = page(left.signal);
          setTimeout(() => left.abort(), 20);
          const answer = await call.catch((error: unknown) => error);
          if (answer instanceof Response) {
            told.push(answer);
            break;
          }
          page = open();
        }
        if (told.length === 0) {
          const calls = [page()];
          if (history.includes('second click')) calls.push(page());
          if (history.includes('second tab')) calls.push(open()());
          told.push(...(await Promise.all(calls)));
        }
        expect(await untrue(payment, told)).toEqual([]);
      }),
      { numRuns: 30 },
    );
  });

  /** What does not go together of what the database has and what the callers were told. */
  async function untrue({ destination }: { destination: string }, responses: Response[]): Promise<string[]> {
    const rows = await api.query<{ id: string }>('select id from payments where destination = $1', [destination]);
    const told = await Promise.all(
      responses.map(async (response) => ((await response.json()) as { payment_id: string }).payment_id),
    );
    return [
      ...(rows.length === 1 ? [] : [`${rows.length} effects`]),
      ...told.filter((id) => id !== rows[0]?.id).map((id) => `told of ${id} in place of ${rows[0]?.id}`),
    ];
  }
});
