import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import type { WebStorage } from '../../src/client/index.js';
import { type PaymentsExample, startPaymentsExample } from '../support/payments-example.js';

/** Debian's; `.ci/run` installs it. */
const EXECUTABLE = process.env['CHROMIUM'] ?? '/usr/bin/chromium';

describe.each(['express', 'fastify'])('the checkout of the example in a browser, on %s', (adapter) => {
  let database: TestDatabase;
  let example: PaymentsExample;
  let port: number;
  let browser: Browser;
  let context: BrowserContext;
  let page: Page;
  let problems: string[];

  const start = async () => {
    example = await startPaymentsExample({ ADAPTER: adapter, PORT: String(port), DATABASE_URL: database.url });
  };

  beforeAll(async () => {
    [database, port] = await Promise.all([createTestDatabase(), freePort()]);
    [browser] = await Promise.all([chromium.launch({ executablePath: EXECUTABLE, args: ['--no-sandbox'] }), start()]);
  });

  afterAll(async () => {
    await browser.close();
    await example.end('SIGTERM');
    await database.drop();
  });

  beforeEach(async () => {
    context = await browser.newContext();
    page = await open();
  });

  afterEach(async () => {
    await context.close();
    if (problems.length > 0) throw new Error(`The page has failed: ${problems.join(', ')}`);
  });

  async function open(): Promise<Page> {
    const tab = await context.newPage();
    tab.setDefaultTimeout(20_000);
    problems = [];
    tab.on('pageerror', (error) => problems.push(String(error)));
    await tab.goto(`http://127.0.0.1:${port}/`);
    await tab.getByText('Not paid yet').first().waitFor();
    return tab;
  }

  const button = (name: string, tab = page) => tab.getByRole('button', { name, exact: true });
  const paid = (lane: 'with' | 'without', tab = page) =>
    tab.locator(`#${lane}-verdict`, { hasText: /^(Paid|Charged)/ }).waitFor();
  const happened = (what: string | RegExp, lane = 'with') =>
    page.locator(`#${lane}-attempts li`, { hasText: what }).first().waitFor();
  const attempts = (lane: 'with' | 'without', tab = page) =>
    tab.locator(`#${lane}-attempts li`, { hasText: 'request sent' }).locator('code').allTextContents();

  /** As the database has them, not the page. */
  async function rows(lane: 'with' | 'without'): Promise<number> {
    const destination = `acct_${lane}_${await page.locator('#cart').textContent()}`;
    const payments = (await (await fetch(`http://127.0.0.1:${port}/payments`)).json()) as { destination: string }[];
    return payments.filter((payment) => payment.destination === destination).length;
  }

  it('a double click pays once, and without the library twice', async () => {
    await button('Pay').dblclick();
    await Promise.all([paid('with'), page.locator('#without-verdict', { hasText: 'Charged 2 times' }).waitFor()]);
    expect([await rows('with'), await rows('without')]).toEqual([1, 2]);
    expect(await attempts('with')).toHaveLength(1);
    expect(await page.locator('#with-rows tr').count()).toBe(1);
  });

  it.each(['before', 'after'])('a network that breaks %s the server commits costs nothing', async (when) => {
    await page.getByLabel(when === 'before' ? 'breaks before' : 'breaks after').check();
    await button('Pay').click();
    await Promise.all([paid('with'), paid('without')]);
    const keys = await attempts('with');
    expect(keys.length).toBeGreaterThanOrEqual(2);
    expect(new Set(keys).size).toBe(1);
    expect(await rows('with')).toBe(1);
    // Chromium sends a request again by itself where a connection breaks that it had used before: two, or three.
    expect((await rows('without')) > 1).toBe(when === 'after');
  });

  it('offline, the payment waits, and goes on when the network is back', async () => {
    await context.setOffline(true);
    await button('Pay').click();
    await happened('no answer');
    expect(await page.locator('#with-verdict').textContent()).toBe('Not paid yet');
    await context.setOffline(false);
    await paid('with');
    expect(await rows('with')).toBe(1);
    expect(new Set(await attempts('with')).size).toBe(1);
  });

  it('a reload in mid-flight goes on with the same key', async () => {
    await button('Pay').click();
    await happened('request sent');
    const [key] = await attempts('with');
    await page.reload();
    await paid('with');
    expect(new Set(await attempts('with'))).toEqual(new Set([key]));
    expect(await rows('with')).toBe(1);
  });

  it('two tabs with one cart pay once', async () => {
    const other = await open();
    await Promise.all([button('Pay').click(), button('Pay', other).click()]);
    await Promise.all([paid('with'), paid('with', other)]);
    expect(new Set([...(await attempts('with')), ...(await attempts('with', other))]).size).toBe(1);
    expect(await rows('with')).toBe(1);
  });

  it('two tabs that begin at the same moment have the same key, however often', async () => {
    const other = await open();
    const begin = (tab: Page): Promise<(string | null)[]> =>
      tab.evaluate(async () => {
        const address = '/client.js';
        const { idempotent, operation } = (await import(address)) as typeof import('../../src/client/index.js');
        const storage = (globalThis as unknown as { localStorage: WebStorage }).localStorage;
        const keys: (string | null)[] = [];
        for (let count = 0; count < 200; count++) {
          // Nobody learns the outcome, so that no operation ends, and no key becomes another.
          const left = new AbortController();
          const pay = idempotent(async (_: string, init?: RequestInit) => {
            keys.push(new Headers(init!.headers).get('Idempotency-Key'));
            left.abort();
            throw new Error('lost');
          });
          const init = { method: 'POST', body: '{}', operation: operation(`at-once-${count}`, storage) };
          await pay('/payments', { ...init, signal: left.signal }).catch(() => undefined);
        }
        return keys;
      });
    const [mine, others] = await Promise.all([begin(page), begin(other)]);
    expect(mine).toHaveLength(200);
    expect(others).toEqual(mine);
  });

  it('a server that is killed and started again pays once', async () => {
    await button('Pay').click();
    await happened('request sent');
    await example.end('SIGKILL');
    await start();
    await paid('with');
    expect(await rows('with')).toBe(1);
    expect(new Set(await attempts('with')).size).toBe(1);
  });

  /** Whatever is paid gets lost, and all else goes through. */
  const loseAll = () => context.route('**/payments?*', (route) => route.abort());

  it('another amount is not sent while the outcome of the former one is unknown', async () => {
    await loseAll();
    await button('Pay').click();
    await happened('no answer');
    await page.getByLabel('Amount').fill('12.50');
    await button('Pay').click();
    await page.locator('#with-verdict', { hasText: 'Not sent: payload-changed' }).waitFor();
    expect(await rows('with')).toBe(0);
    await context.unrouteAll();
    await paid('with');
    expect(await page.locator('#with-rows tr').allTextContents()).toEqual([expect.stringContaining('25.00 EUR')]);
  });

  it('a key that is too old is not used, until the visitor decides', async () => {
    await loseAll();
    await button('Pay').click();
    await happened('no answer');
    await page.evaluate(() => {
      const { localStorage } = globalThis as unknown as { localStorage: Record<string, string> };
      const name = Object.keys(localStorage).find((key) => key.startsWith('idempotency:checkout'))!;
      const entry = JSON.parse(localStorage[name]!) as { at: number };
      localStorage[name] = JSON.stringify({ ...entry, at: entry.at - 24 * 3_600_000 });
    });
    await page.reload();
    await page.locator('#with-verdict', { hasText: 'Not sent: key-expired' }).waitFor();
    await context.unrouteAll();
    expect(await rows('with')).toBe(0);
    await button('Forget the former payment, and begin a new one').click();
    await paid('with');
    expect(await rows('with')).toBe(1);
  });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}
