import { type MiddlewareConsumer, Module, type NestModule } from '@nestjs/common';
import { PaymentsModule } from '../payments/payments.module.js';
import { CheckoutController } from './checkout.controller.js';
import { cutNetwork } from './cut-network.js';

@Module({ imports: [PaymentsModule], controllers: [CheckoutController] })
export class CheckoutModule implements NestModule {
  configure(consumer: MiddlewareConsumer): void {
    consumer.apply(cutNetwork).forRoutes('payments', 'unprotected-payments');
  }
}
