import { describe, expect, it } from '@jest/globals';
import * as exceptions from '../../../src/protocol/exceptions.js';
import { blocksOf, prose, read, tableOf } from '../../docs/pages.js';

const COMPLETED_AT = new Date('2026-11-26T10:00:00Z');

/** One of each, as docs/wire.md shows it. */
const SHOWN = [
  new exceptions.IdempotencyKeyMissingException('the header Idempotency-Key'),
  new exceptions.IdempotencyKeyMalformedException('it is empty'),
  new exceptions.IdempotencyReplayForbiddenException(),
  new exceptions.IdempotencyRequestInFlightException(),
  new exceptions.IdempotencyResponseNotKeptException(201, COMPLETED_AT),
  new exceptions.IdempotencyOutcomeUnknownException(['charge']),
  new exceptions.IdempotencyStepsChangedException(),
  new exceptions.IdempotencyLeaseLostException(),
  new exceptions.IdempotencyUnsupportedMediaTypeException('text/csv'),
  new exceptions.IdempotencyKeyReusedException(),
  new exceptions.IdempotencyTooManyInFlightException(),
  new exceptions.IdempotencyTransactionFailedException('The outcome of the operation could not be recorded.'),
  new exceptions.IdempotencyConflictException(),
  new exceptions.IdempotencyStoreUnavailableException('The database cannot be reached.'),
  new exceptions.IdempotencyTimeoutException(30_000),
];

const samples = blocksOf('docs/wire.md')
  .filter(({ language }) => language === 'json')
  .map(({ code }) => JSON.parse(code) as exceptions.ProblemDocument);

/** What stands below the heading of a problem. */
function sectionOf(slug: string): string {
  return new RegExp(`^### ${slug}\\n([\\s\\S]*?)(?=^#|$(?![\\s\\S]))`, 'm').exec(prose('docs/wire.md'))?.[1] ?? '';
}

describe('the problems in docs/wire.md', () => {
  it('are all there are', () => {
    const classes = Object.values(exceptions).filter(
      (value) =>
        typeof value === 'function' &&
        value.prototype instanceof exceptions.IdempotencyException &&
        value !== (exceptions.IdempotencyException as unknown),
    );
    expect(SHOWN.map(({ constructor }) => constructor).toSorted(byName)).toEqual(classes.toSorted(byName));
    expect(samples.map(({ type }) => type)).toEqual(SHOWN.map((exception) => exception.getResponse().type));
  });

  it.each(SHOWN.map((exception) => [exception.slug, exception] as const))(
    'show what is sent: %s',
    (slug, exception) => {
      const problem = exception.getResponse();
      expect(samples.find(({ type }) => type.endsWith(`:${slug}`))).toEqual(problem);
      const section = sectionOf(slug);
      expect(section).toContain(`${problem.status}. Retry: `);
      const seconds = exception.retryAfterSeconds;
      const retry =
        seconds === undefined ? /Retry: (?:no|yes, with)/ : new RegExp(`Retry: yes, after .*\\(${seconds} s\\)`);
      expect(section).toMatch(retry);
      expect(section.includes('`Retry-After`')).toBe(seconds !== undefined);
    },
  );

  it.each(SHOWN.map(({ slug }) => slug))('have a row in docs/troubleshooting.md: %s', (slug) => {
    const rows = tableOf(read('docs/troubleshooting.md'), 'what clients get');
    expect(rows.filter(([what = '']) => what.includes(`\`${slug}\``))).toHaveLength(1);
  });
});

function byName(one: unknown, other: unknown): number {
  return String((one as { name: string }).name).localeCompare((other as { name: string }).name);
}
