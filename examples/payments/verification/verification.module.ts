import { Module, type DynamicModule } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { PROVIDER_URL, ProviderClient } from '../provider/provider.client.js';
import { VerificationController } from './verification.controller.js';
import { VerificationService } from './verification.service.js';
import { VerificationSession } from './verification-session.entity.js';
import { VerificationWebhookController } from './verification-webhook.controller.js';

@Module({})
export class VerificationModule {
  static register(providerUrl: string): DynamicModule {
    return {
      module: VerificationModule,
      imports: [TypeOrmModule.forFeature([VerificationSession])],
      controllers: [VerificationController, VerificationWebhookController],
      providers: [VerificationService, ProviderClient, { provide: PROVIDER_URL, useValue: providerUrl }],
    };
  }
}
