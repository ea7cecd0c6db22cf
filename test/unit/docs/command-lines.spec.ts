import { describe, expect, it } from '@jest/globals';
import { readCommand } from '../../../src/cli/run-command.js';
import { blocksOf, type Block, pages, prose, read } from '../../docs/pages.js';

const SHELLS = new Set(['sh', 'bash', 'shell']);

interface CommandLine {
  where: string;
  line: string;
}

/** What a shell makes of a line, as far as the docs go: quotes, a comment, a pipe or file behind it. */
function argumentsOf(line: string): string[] {
  const words = line.match(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g) ?? [];
  const end = words.findIndex((word) => /^(?:#.*|\||>|&&|;)$/.test(word));
  return words
    .slice(0, end === -1 ? undefined : end)
    .map((word) => word.replaceAll(/'([^']*)'|"([^"]*)"/g, (_, single, double) => single ?? double ?? ''));
}

function inBlock({ page, line, language, code }: Block): CommandLine[] {
  if (!SHELLS.has(language)) {
    return [];
  }
  return code.split('\n').flatMap((text, index) =>
    text
      .split(/&&|\|\|/)
      .map((part) => /(?:^|\s)(?:npx nestjs-idempotency|npm run idempotency --) (.*)$/.exec(part)?.[1])
      .filter((found) => found !== undefined)
      .map((found) => ({ where: `${page}:${line + index}`, line: found })),
  );
}

/** `npx nestjs-idempotency doctor` in a sentence. */
function inProse(page: string): CommandLine[] {
  return [...prose(page).matchAll(/`npx nestjs-idempotency ([^`]+)`/g)].map(([, line = '']) => ({ where: page, line }));
}

/** `a | b` stands for each of them, and `<scope>` for something. */
function alternatives({ where, line }: CommandLine): CommandLine[] {
  return line.split(' | ').map((each) => ({ where, line: each.replace(/^npx nestjs-idempotency /, '') }));
}

const SHOWN = pages()
  .filter((page) => page !== 'CHANGELOG.md')
  .flatMap((page) => [...blocksOf(page).flatMap(inBlock), ...inProse(page)])
  .flatMap(alternatives);

describe('a command line in the documentation', () => {
  it('is found', () => {
    expect(SHOWN.length).toBeGreaterThan(20);
  });

  it.each(SHOWN.map(({ where, line }) => [where, line] as const))('of %s is one that there is: %s', (_, line) => {
    const given = argumentsOf(line);
    // At a terminal these ask; a test is none.
    const agreed = ['forget', 'release', 'resolve'].includes(given[0]!) && !given.includes('--yes') ? ['--yes'] : [];
    expect(readCommand([...given, ...agreed]).command).toBeDefined();
  });
});

describe('a script in the documentation', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const named = new Set(
    pages()
      .filter((page) => page !== 'CHANGELOG.md')
      .flatMap((page) => [...read(page).matchAll(/\bnpm run (?:-s )?([\w:-]+)/g)])
      .map(([, name = '']) => name),
  );

  it('is one of package.json', () => {
    expect(named.size).toBeGreaterThan(15);
    expect([...named].filter((name) => !(name in scripts))).toEqual([]);
  });
});
