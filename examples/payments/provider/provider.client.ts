import { BadGatewayException, Inject, Injectable } from '@nestjs/common';

export const PROVIDER_URL = Symbol('PROVIDER_URL');

/** Far longer than the provider takes on a bad day, shorter than the 30 s that the whole request has. */
const TIMEOUT_MS = 20_000;

export interface ProviderRequest {
  workflow_id: string;
  /** Whom the provider is to name when it calls back. */
  reference: string;
}

export interface Wire {
  wire_id: string;
  amount: number;
  iban: string;
}

export interface ProviderSession {
  session_id: string;
  url: string;
}

@Injectable()
export class ProviderClient {
  constructor(@Inject(PROVIDER_URL) private readonly url: string) {}

  /** @throws BadGatewayException when nobody knows whether the wire was sent: the bank knows no keys */
  sendWire(request: { amount: number; iban: string }, { signal }: { signal: AbortSignal }): Promise<Wire> {
    return this.post('/wires', request, {}, signal);
  }

  /** @throws BadGatewayException when there is no session, or nobody knows whether there is one: ask again with the same key */
  async createSession(
    request: ProviderRequest,
    { idempotencyKey, signal }: { idempotencyKey: string; signal: AbortSignal },
  ): Promise<ProviderSession> {
    return this.post('/sessions', request, { 'Idempotency-Key': idempotencyKey }, signal);
  }

  private async post<T>(
    path: string,
    request: object,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<T> {
    try {
      const response = await fetch(this.url + path, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', ...headers },
        body: JSON.stringify(request),
        signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
      });
      const body = await response.text();
      if (!response.ok) throw new Error(`It answered ${response.status}: ${body}`);
      return JSON.parse(body) as T;
    } catch (cause) {
      throw new BadGatewayException('The provider did not answer as it should. Try again.', { cause });
    }
  }
}
