import { HttpModule, HttpService } from '@nestjs/axios';
import { Injectable, Module } from '@nestjs/common';
import axiosRetry, { exponentialDelay, isNetworkError, isRetryableError } from 'axios-retry';
import { firstValueFrom } from 'rxjs';
import type { Payment } from './recipe.js';

@Injectable()
export class PaymentsClient {
  constructor(private readonly http: HttpService) {
    axiosRetry(http.axiosRef, {
      retries: 5,
      shouldResetTimeout: true,
      retryCondition: (error) =>
        isNetworkError(error) ||
        isRetryableError(error) ||
        error.code === 'ECONNABORTED' ||
        (error.response?.status === 409 && 'retry-after' in error.response.headers),
      retryDelay: exponentialDelay,
    });
  }

  /** @param key of the operation: the order's, not one that is made here */
  async pay(url: string, payment: Payment, key: string) {
    const { status, data } = await firstValueFrom(
      this.http.post<unknown>(url, payment, { headers: { 'Idempotency-Key': key } }),
    );
    return { status, body: data };
  }
}

@Module({
  imports: [HttpModule.register({ timeout: 15_000 })],
  providers: [PaymentsClient],
  exports: [PaymentsClient],
})
export class PaymentsClientModule {}
