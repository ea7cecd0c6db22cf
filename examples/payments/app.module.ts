import { Module, type DynamicModule } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { idempotencyMigrations, IdempotencyModule } from '../../src/index.js';
import type { PaymentsAppOptions } from './app.js';
import { CheckoutModule } from './checkout/checkout.module.js';
import { CustomersModule } from './customers/customers.module.js';
import { JobsModule } from './jobs/jobs.module.js';
import { LedgerModule } from './ledger/ledger.module.js';
import { CreatePaymentsTables1763700000000 } from './migrations/1763700000000-create-payments-tables.js';
import { CreateVerificationAndPayouts1763800000000 } from './migrations/1763800000000-create-verification-and-payouts.js';
import { PaymentsModule } from './payments/payments.module.js';
import { PayoutsModule } from './payouts/payouts.module.js';
import { UploadsModule } from './uploads/uploads.module.js';
import { UsersModule } from './users/users.module.js';
import { VerificationModule } from './verification/verification.module.js';
import { WiresModule } from './wires/wires.module.js';

@Module({})
export class AppModule {
  /** @param operations what it is looked after by */
  static register(
    { adapter, databaseUrl, providerUrl }: PaymentsAppOptions,
    operations: DynamicModule[],
  ): DynamicModule {
    return {
      module: AppModule,
      imports: [
        TypeOrmModule.forRoot({
          type: 'postgres',
          url: databaseUrl,
          autoLoadEntities: true,
          // The library's table is created like the application's own: by TypeORM's runner, in one go.
          migrations: [
            ...idempotencyMigrations,
            CreatePaymentsTables1763700000000,
            CreateVerificationAndPayouts1763800000000,
          ],
          migrationsRun: true,
          retryAttempts: 0,
        }),
        IdempotencyModule.forRoot({
          // Nobody logs in here, so all callers share one scope. With a guard that sets `request.user` leave this out:
          // each user then has keys of his own.
          scope: () => '',
        }),
        PaymentsModule,
        LedgerModule,
        CustomersModule,
        UsersModule,
        UploadsModule.register(adapter),
        VerificationModule.register(providerUrl),
        JobsModule.register(databaseUrl),
        PayoutsModule,
        WiresModule.register(providerUrl),
        CheckoutModule,
        ...operations,
      ],
    };
  }
}
