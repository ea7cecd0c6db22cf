import { type DynamicModule, Module } from '@nestjs/common';
import { PROVIDER_URL, ProviderClient } from '../provider/provider.client.js';
import { WiresController } from './wires.controller.js';

@Module({})
export class WiresModule {
  static register(providerUrl: string): DynamicModule {
    return {
      module: WiresModule,
      controllers: [WiresController],
      providers: [ProviderClient, { provide: PROVIDER_URL, useValue: providerUrl }],
    };
  }
}
