import { describe, expect, it } from '@jest/globals';
import { DurableStepError } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { leaseModeOn } from './lease-mode-on.js';
import { provider, scripts, seen } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, call } = leaseModeOn(adapter);

  it('gives a step’s result as JSON makes it, on the first attempt and on later ones', async () => {
    let failures = 1;
    const at = new Date(0);
    scripts['pay'] = async (context) => {
      const [object, nothing, text] = [
        await context.step('object', () => ({ at, gone: undefined, nul: 'a\0b', half: '\ud800', list: [1, null] })),
        await context.step('nothing', () => undefined),
        await context.step('text', () => 'ünï'),
      ];
      seen.push([object, nothing, text]);
      if (failures-- > 0) throw new Error('once more');
      return 'done';
    };
    expect((await application().post('/run/pay', 'k')).status).toBe(500);
    expect((await application().post('/run/pay', 'k')).status).toBe(201);
    const expected = [{ at: at.toISOString(), nul: 'a\0b', half: '\ud800', list: [1, null] }, undefined, 'ünï'];
    expect(seen).toEqual([expected, expected]);
  });

  it('refuses what cannot be resumed', async () => {
    scripts['wrong'] = async (context) => {
      const errors = async (work: () => Promise<unknown>): Promise<void> => {
        await work().catch((error: unknown) => seen.push(error));
      };
      await context.step('a', () => 1);
      await errors(() => context.step('a', () => 2));
      await errors(() => context.step('', () => 2));
      await errors(() => context.step('x'.repeat(256), () => 2));
      await errors(() => context.step('outer', () => context.step('inner', () => 1)));
      await errors(() => context.step('bigint', () => 1n));
      await errors(() => context.step('large', () => 'x'.repeat(1024 * 1024)));
      return 'done';
    };
    expect((await application().post('/run/wrong', 'k')).status).toBe(201);
    expect(seen.map((error) => error instanceof DurableStepError)).toEqual(Array(6).fill(true));
    expect(seen.map(String)).toEqual([
      expect.stringContaining('Two steps are named "a"'),
      expect.stringContaining('1 to 255 characters'),
      expect.stringContaining('1 to 255 characters'),
      expect.stringContaining('"inner" is begun inside of step "outer"'),
      expect.stringContaining('step "bigint" cannot be stored as JSON'),
      expect.stringContaining('step "large" takes 1048591 bytes'),
    ]);
  });

  it('runs steps side by side', async () => {
    let failures = 1;
    scripts['parallel'] = async (context) => {
      const results = await Promise.all(['a', 'b', 'c'].map((name) => context.step(name, () => call(name))));
      if (failures-- > 0) throw new Error('once more');
      return results;
    };
    expect((await application().post('/run/parallel', 'k')).status).toBe(500);
    expect(JSON.parse((await application().post('/run/parallel', 'k')).body.toString())).toHaveLength(3);
    expect(provider).toEqual(['a', 'b', 'c']);
  });
});
