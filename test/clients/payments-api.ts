import { randomUUID } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import type { INestApplication } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { DataSource } from 'typeorm';
import { type Adapter, createPaymentsApp } from '../../examples/payments/app.js';
import { type FakeProvider, startFakeProvider } from '../../examples/payments/provider/fake-provider.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import type { Payment } from './recipes/recipe.js';
import { StripeErrorsFilter } from './recipes/stripe-errors.filter.js';
import { UnreliableNetwork } from './unreliable-network.js';

/** The example below `/v1`, where Stripe's client looks for it, and networks to it. */
export class PaymentsApi {
  private readonly networks: UnreliableNetwork[] = [];

  private constructor(
    private readonly database: TestDatabase,
    private readonly provider: FakeProvider,
    private readonly app: INestApplication,
  ) {}

  static async start(adapter: Adapter, errors: 'problems' | 'of Stripe' = 'problems'): Promise<PaymentsApi> {
    const [database, provider] = await Promise.all([createTestDatabase(), startFakeProvider()]);
    const app = await createPaymentsApp({ adapter, databaseUrl: database.url, providerUrl: provider.url });
    app.setGlobalPrefix('v1');
    if (errors === 'of Stripe') app.useGlobalFilters(new StripeErrorsFilter(app.get(HttpAdapterHost)));
    await app.listen(0, '127.0.0.1');
    return new PaymentsApi(database, provider, app);
  }

  get port(): number {
    return (this.app.getHttpServer().address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/v1`;
  }

  get databaseUrl(): string {
    return this.database.url;
  }

  async network(): Promise<UnreliableNetwork> {
    const network = await UnreliableNetwork.to(() => this.port);
    this.networks.push(network);
    return network;
  }

  query<T>(sql: string, values?: unknown[]): Promise<T[]> {
    return this.app.get(DataSource).query(sql, values);
  }

  /** A payment that is told from all others by its destination. */
  payment(): Payment {
    return { amount: 1_000, currency: 'EUR', destination: `acct_${randomUUID()}` };
  }

  async effects({ destination }: Pick<Payment, 'destination'>): Promise<number> {
    return (await this.query('select from payments where destination = $1', [destination])).length;
  }

  async close(): Promise<void> {
    this.networks.forEach((network) => network.stop());
    await this.app.close();
    await this.provider.stop();
    await this.database.drop();
  }
}
