import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** A fenced block of code. */
export interface Block {
  /** The page, from the root. */
  page: string;
  /** The line of its first line of code, counted from 1. */
  line: number;
  language: string;
  code: string;
  /** What the comment before it says of how it is checked: `<!-- check: nothing | why -->`. */
  directive: string | undefined;
}

/** All that is written for people and kept by the project, from the root. */
export function pages(): string[] {
  const inRoot = readdirSync(ROOT).filter((name) => name.endsWith('.md'));
  const inDocs = readdirSync(join(ROOT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`);
  const others = ['examples/payments/README.md', 'bench/README.md', 'docs/monitoring/README.md'];
  return [...inRoot, ...inDocs, ...others.filter((page) => existsSync(join(ROOT, page)))];
}

/** Those that users read. */
export function userPages(): string[] {
  return pages().filter((page) => page === 'README.md' || page.startsWith('docs/'));
}

export function read(page: string): string {
  return readFileSync(join(ROOT, page), 'utf8');
}

export function blocksOf(page: string): Block[] {
  const blocks: Block[] = [];
  let open: (Block & { indent: string; fence: string }) | undefined;
  let directive: string | undefined;
  for (const [index, text] of read(page).split('\n').entries()) {
    const [, indent = '', fence = '', language = ''] = /^( *)(`{3,})(.*)$/.exec(text) ?? [];
    if (open !== undefined && fence === open.fence && language === '') {
      blocks.push({ page, line: open.line, language: open.language, code: open.code, directive: open.directive });
      open = undefined;
      directive = undefined;
    } else if (open !== undefined) {
      open.code += `${text.startsWith(open.indent) ? text.slice(open.indent.length) : text}\n`;
    } else if (fence !== '') {
      open = { page, line: index + 2, language: language.trim(), code: '', directive, indent, fence };
    } else if (text.trim() !== '') {
      directive = /^ *<!-- check: (.*?)(?: \|.*)?-->$/.exec(text)?.[1]?.trim();
    }
  }
  if (open !== undefined) {
    throw new Error(`${page}:${open.line}: the block of code has no end`);
  }
  return blocks;
}

/** The page without its blocks of code, line for line. */
export function prose(page: string): string {
  return read(page).replaceAll(/^( *)(`{3,}).*\n(?:[\s\S]*?\n)??\1\2 *$/gm, (block) => block.replaceAll(/[^\n]/g, ''));
}

/** The cells of the table whose head begins with these columns; each row without what typography adds. */
export function tableOf(markdown: string, ...head: string[]): string[][] {
  const lines = markdown.split('\n');
  const cells = (line: string): string[] =>
    line
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll('\\|', '|'));
  const start = lines.findIndex((line) => line.startsWith('|') && head.every((name, at) => cells(line)[at] === name));
  const rows = start === -1 ? [] : lines.slice(start + 2);
  const end = rows.findIndex((line) => !line.startsWith('|'));
  return rows.slice(0, end === -1 ? undefined : end).map(cells);
}
