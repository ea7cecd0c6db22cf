import { randomBytes } from 'node:crypto';

interface PaymentRequest {
  key: string;
  amount?: number;
  query?: string;
}

/**
 * Five command lines to paste one after the other, each for one thing that the library does. Their keys are new on every
 * start, because the data of earlier ones is still there.
 */
export function tour(url: string): string {
  const run = randomBytes(3).toString('hex');
  const pay = ({ key, amount = 1000, query = '' }: PaymentRequest) =>
    `curl -iw '\\n' '${url}/payments${query}' -H 'Content-Type: application/json' -H 'Idempotency-Key: ${key}-${run}' ` +
    `-d '{"amount":${amount},"currency":"EUR","destination":"acct_${run}"}'`;

  const first = pay({ key: 'first' });
  const slow = pay({ key: 'slow', query: '?delay_ms=3000' });
  const failing = pay({ key: 'failing', amount: 6666, query: '?fail=after-write' });
  return [
    ['The first request pays: 201', first],
    ['Its retry gets the same bytes and pays nothing: 201 with Idempotency-Replayed: true', first],
    ['The same key for another payment is refused: 422', pay({ key: 'first', amount: 2000 })],
    [
      'A retry while the first request still runs is told to wait: 409 with Retry-After',
      `${slow} & sleep 1; ${slow}; wait`,
    ],
    [
      'A request that fails after its writes leaves nothing, here no payment of 6666: 500',
      `${failing}; curl -w '\\n' '${url}/payments'`,
    ],
  ]
    .map(([what, line], index) => `${index + 1}. ${what}\n${line}\n`)
    .join('\n');
}
