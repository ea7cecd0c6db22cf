import { type AxiosError, create } from 'axios';
import axiosRetry, { exponentialDelay, isNetworkError, isRetryableError } from 'axios-retry';
import type { Recipe } from './recipe.js';

const isInFlight = ({ response }: AxiosError) => response?.status === 409 && 'retry-after' in response.headers;

const client = create({ timeout: 15_000 });
axiosRetry(client, {
  retries: 5,
  shouldResetTimeout: true,
  // Its default leaves out POST, and what timed out.
  retryCondition: (error) =>
    isNetworkError(error) || isRetryableError(error) || error.code === 'ECONNABORTED' || isInFlight(error),
  retryDelay: exponentialDelay, // goes by Retry-After
});

export const pay: Recipe = async (url, payment, key) => {
  const { status, data } = await client.post(url, payment, { headers: { 'Idempotency-Key': key } });
  return { status, body: data };
};
