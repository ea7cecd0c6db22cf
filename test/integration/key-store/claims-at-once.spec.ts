import { describe, expect, it } from '@jest/globals';
import { effects, recordFor, requestFor, rowsOf, session, store, withAStore, write } from './lab.js';

withAStore();

describe('claims at once', () => {
  it('have exactly one winner in every round, and the others get its response', async () => {
    const contenders = await Promise.all(Array.from({ length: 20 }, () => session()));
    for (let round = 0; round < 50; round++) {
      const key = `round ${round}`;
      const outcomes = await Promise.all(
        contenders.map(async (client, index) => {
          for (;;) {
            const request = requestFor(key);
            const result = await store.claim(client, request);
            switch (result.kind) {
              case 'claimed':
                await write(client, key);
                await store.record(client, recordFor(request, { body: Buffer.from([index]), bodyBytes: 1 }), false);
                return { won: true, body: Buffer.from([index]) };
              case 'completed':
                await store.rollback(client);
                return { won: false, body: result.response.body! };
              case 'in flight':
                await store.rollback(client);
            }
          }
        }),
      );
      const [winner, ...others] = outcomes.toSorted((a, b) => Number(b.won) - Number(a.won));
      expect(winner!.won).toBe(true);
      expect(others.filter(({ won }) => won)).toEqual([]);
      expect(others.every(({ body }) => body.equals(winner!.body))).toBe(true);
    }
    expect(await effects()).toHaveLength(50);
    expect(await rowsOf()).toHaveLength(50);
  });

  it('of which the winner rolls back have another one', async () => {
    const contenders = await Promise.all(Array.from({ length: 10 }, () => session()));
    let failures = 3;
    const outcomes = await Promise.all(
      contenders.map(async (client) => {
        for (;;) {
          const request = requestFor('k');
          const { kind } = await store.claim(client, request);
          if (kind === 'claimed' && failures-- <= 0) {
            await write(client);
            await store.record(client, recordFor(request), false);
            return 'won';
          }
          if (kind === 'claimed') await write(client, 'undone');
          await store.rollback(client);
          if (kind === 'completed') return 'lost';
        }
      }),
    );
    expect(outcomes.filter((outcome) => outcome === 'won')).toHaveLength(1);
    expect(await effects()).toEqual(['done']);
  });
});
