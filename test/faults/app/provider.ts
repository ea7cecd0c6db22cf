import { BadGatewayException, Injectable } from '@nestjs/common';
import type { IdempotencyContext } from '../../../src/index.js';
import type { ProviderCall, ProviderReceipt } from './protocol.js';

/** The application's side of a service elsewhere, whose effects no transaction undoes. */
@Injectable()
export class Provider {
  constructor(private readonly url: string) {}

  call(context: IdempotencyContext, step: string, signal: AbortSignal | null): Promise<ProviderReceipt> {
    return this.send(context, step, { 'Idempotency-Key': context.downstreamKey(step) }, signal);
  }

  /** Where the service knows no keys: it acts each time. */
  callWithoutKey(context: IdempotencyContext, step: string): Promise<ProviderReceipt> {
    return this.send(context, step, {}, null);
  }

  private async send(
    { key, attempt }: IdempotencyContext,
    step: string,
    headers: Record<string, string>,
    signal: AbortSignal | null,
  ): Promise<ProviderReceipt> {
    const call: ProviderCall = { key, step, attempt };
    const response = await fetch(this.url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: JSON.stringify(call),
      signal,
    }).catch((cause: unknown) => {
      throw new BadGatewayException('the provider did not answer', { cause });
    });
    if (!response.ok) {
      throw new BadGatewayException(`the provider answered with ${response.status}`);
    }
    return (await response.json()) as ProviderReceipt;
  }
}
