import { Agent, request, RetryAgent } from 'undici';
import type { Recipe } from './recipe.js';

const dispatcher = new RetryAgent(new Agent({ headersTimeout: 15_000 }), {
  methods: ['POST'], // its default leaves it out
  statusCodes: [408, 409, 425, 429, 500, 502, 503, 504], // it cannot tell one 409 from another: those that stay are given up
  errorCodes: ['ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'UND_ERR_SOCKET', 'UND_ERR_HEADERS_TIMEOUT'],
  maxRetries: 5,
  minTimeout: 100,
});

export const pay: Recipe = async (url, payment, key) => {
  const { statusCode, body } = await request(url, {
    dispatcher,
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
    body: JSON.stringify(payment),
  });
  if (statusCode >= 400) throw new Error(`${statusCode} ${await body.text()}`);
  return { status: statusCode, body: await body.json() };
};
