import ky from 'ky';
import type { Recipe } from './recipe.js';

const client = ky.create({
  timeout: 15_000,
  retry: {
    limit: 5,
    methods: ['post'], // its default leaves it out
    statusCodes: [408, 409, 425, 429, 500, 502, 503, 504],
    afterStatusCodes: [409, 425, 429, 503], // Retry-After
    retryOnTimeout: true,
    jitter: true,
  },
  hooks: {
    beforeRetry: [
      ({ error }) => {
        const { response } = error as { response?: Response };
        if (response?.status === 409 && !response.headers.has('Retry-After')) throw error; // none that goes away
      },
    ],
  },
});

export const pay: Recipe = async (url, payment, key) => {
  const response = await client.post(url, { json: payment, headers: { 'Idempotency-Key': key } });
  return { status: response.status, body: await response.json() };
};
