import { describe, expect, it } from '@jest/globals';
import { judge, type Sample } from './verdict.js';

const MB = 1_000_000;

/** 120 samples of an instance that does not grow, each with some noise, and what `grow` does to them. */
function soaked(grow: (sample: Sample, progress: number) => void = () => undefined): Sample[] {
  return Array.from({ length: 120 }, (_, index) => {
    const noise = index % 7;
    const sample: Sample = {
      seconds: index * 5,
      instances: [
        {
          heapUsed: (30 + noise / 5) * MB,
          external: (5 + noise) * MB,
          rss: 280 * MB,
          resources: 30 + noise * 5,
          pool: { total: 7 + (index % 2), idle: 7 - noise, waiting: 0 },
        },
      ],
      sessions: 7 + (index % 2),
      rows: 240 + noise * 3,
      relationBytes: (20 + noise) * MB,
    };
    grow(sample, index / 120);
    return sample;
  });
}

const growing = (samples: Sample[]) =>
  judge(samples)
    .filter(({ kept }) => !kept)
    .map(({ what }) => what);

describe('the verdict of the soak', () => {
  it('is that nothing grows where nothing does', () => {
    expect(growing(soaked())).toEqual([]);
  });

  it('does not mind how much there is by the end of the warm-up', () => {
    const warmingUp = soaked(({ instances: [instance] }, progress) => {
      instance!.heapUsed += Math.min(progress, 0.3) * 100 * MB;
    });
    expect(growing(warmingUp)).toEqual([]);
  });

  it('does not mind a single moment', () => {
    const samples = soaked();
    samples[100]!.instances[0]!.heapUsed *= 3;
    samples[101]!.relationBytes *= 3;
    expect(growing(samples)).toEqual([]);
  });

  it.each<[string, (sample: Sample, progress: number) => void]>([
    ['instance 1: heap used', ({ instances: [instance] }, progress) => (instance!.heapUsed += progress * 15 * MB)],
    ['instance 1: buffers', ({ instances: [instance] }, progress) => (instance!.external += progress * 40 * MB)],
    ['instance 1: active resources', ({ instances: [instance] }, progress) => (instance!.resources += progress * 60)],
    ['instance 1: connections in use', ({ instances: [instance] }, progress) => (instance!.pool.idle -= progress * 8)],
    ['PostgreSQL: sessions', (sample, progress) => (sample.sessions += progress * 12)],
    ['PostgreSQL: rows of the table', (sample, progress) => (sample.rows += progress * 500)],
    ['PostgreSQL: size of the table', (sample, progress) => (sample.relationBytes += progress * 40 * MB)],
  ])('finds what grows: %s', (what, grow) => {
    expect(growing(soaked(grow))).toEqual([what]);
  });
});
