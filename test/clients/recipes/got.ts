import { got } from 'got';
import type { Recipe } from './recipe.js';

const client = got.extend({
  timeout: { response: 15_000 },
  retry: {
    limit: 5,
    methods: ['POST'], // its default leaves it out
    statusCodes: [408, 409, 425, 429, 500, 502, 503, 504],
    calculateDelay: ({ error, computedValue }) =>
      error.response?.statusCode === 409 && error.response.headers['retry-after'] === undefined ? 0 : computedValue,
  },
});

export const pay: Recipe = async (url, payment, key) => {
  const { statusCode, body } = await client.post(url, {
    json: payment,
    headers: { 'Idempotency-Key': key },
    responseType: 'json',
  });
  return { status: statusCode, body };
};
