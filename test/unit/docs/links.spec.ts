import { existsSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { pages, prose, read, ROOT, userPages } from '../../docs/pages.js';

/** As GitHub makes an anchor of a heading. */
function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ''] of prose(page).matchAll(/^#{1,6} +(.+?) *#*$/gm)) {
    const plain = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const anchor = plain.replaceAll(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-');
    let unique = anchor;
    for (let again = 1; anchors.has(unique); again++) {
      unique = `${anchor}-${again}`;
    }
    anchors.add(unique);
  }
  return anchors;
}

const { files } = JSON.parse(read('package.json')) as { files: string[] };

/** Whether npm packs it: by its name, by its folder, or as one of a kind; three of them always. */
function isPublished(file: string): boolean {
  return ['package.json', 'README.md', 'LICENSE', ...files].some((entry) => {
    const [folder, kind] = entry.split('/*');
    return kind === undefined
      ? file === entry || file.startsWith(`${entry}/`)
      : dirname(file) === folder && file.endsWith(kind);
  });
}

interface Link {
  target: string;
  /** The file, from the root. */
  file: string;
  anchor: string | undefined;
}

/** Links and pictures that are no addresses. */
function relativeLinks(page: string): Link[] {
  const text = prose(page).replaceAll(/`[^`\n]*`/g, '');
  return [...text.matchAll(/\[[^\]]*\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => target)
    .filter((target) => !/^[a-z][a-z0-9+.-]*:/i.test(target))
    .map((target) => {
      const [path = '', anchor] = target.split('#');
      return { target, file: path === '' ? page : relative(ROOT, join(ROOT, dirname(page), path)), anchor };
    });
}

describe('the documentation', () => {
  it.each(pages())('%s has no link that leads nowhere', (page) => {
    const broken = relativeLinks(page).filter(({ file, anchor }) => {
      const isThere = existsSync(join(ROOT, file));
      return !isThere || (anchor !== undefined && !anchorsOf(file).has(anchor));
    });
    expect(broken.map(({ target }) => target)).toEqual([]);
  });

  it.each(pages().filter(isPublished))(
    '%s, which travels in the package, links to nothing that stays at home',
    (page) => {
      expect(
        relativeLinks(page)
          .filter(({ file }) => !isPublished(file))
          .map(({ target }) => target),
      ).toEqual([]);
    },
  );

  it.each(pages())('%s names no test, folder or file of the project that is not there', (page) => {
    const named = [...prose(page).matchAll(/`((?:test|src|examples|scripts|bench|migrations|docs)\/[\w./-]+)`/g)].map(
      ([, path = '']) => path,
    );
    expect(named.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });

  it.each(pages())('%s has a note for each mark, and a mark for each note', (page) => {
    const text = prose(page);
    const notes = [...text.matchAll(/^\[\^([\w-]+)\]:/gm)].map(([, name]) => name);
    const marks = [...text.matchAll(/\[\^([\w-]+)\](?!:)/g)].map(([, name]) => name);
    expect([...new Set(marks)].toSorted()).toEqual(notes.toSorted());
  });

  it('is all in its index, in which each page comes once', () => {
    const listed = [...read('docs/README.md').matchAll(/^\d+\. .*?\]\(([^)]+)\)/gm)].map(([, page]) => `docs/${page}`);
    const there = userPages().filter((page) => /^docs\/[^/]+\.md$/.test(page) && page !== 'docs/README.md');
    expect(listed.toSorted()).toEqual(there.toSorted());
  });

  it('has pictures with words for who does not see them', () => {
    const pictures = userPages().flatMap((page) => [...prose(page).matchAll(/!\[([^\]]*)\]\(([^)\s]+)\)/g)]);
    expect(pictures.filter(([, words]) => (words ?? '').length < 20).map(([, , file]) => file)).toEqual([]);
  });
});
