/** Fails where a link of the site leads to no page, file or anchor of it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const SITE = fileURLToPath(new URL('html', import.meta.url));
const ids = new Map();

function idsOf(file) {
  if (!ids.has(file)) {
    const text = file.endsWith('.html') ? readFileSync(file, 'utf8') : '';
    ids.set(file, new Set([...text.matchAll(/\sid="([^"]+)"/g)].map(([, id]) => id)));
  }
  return ids.get(file);
}

const pages = readdirSync(SITE, { recursive: true }).filter((name) => name.endsWith('.html'));
const broken = pages.flatMap((page) => {
  const file = join(SITE, page);
  const links = [...readFileSync(file, 'utf8').matchAll(/\b(?:href|src)="([^"]+)"/g)].map(([, link]) => link);
  return links
    .filter((link) => !/^[a-z]+:/.test(link) && !link.includes('icons.svg#'))
    .filter((link) => {
      const [path, anchor] = link.split('#').map(decodeURIComponent);
      const target = path === '' ? file : normalize(join(dirname(file), path));
      return !existsSync(target) || ((anchor ?? '') !== '' && !idsOf(target).has(anchor));
    })
    .map((link) => `${page}: ${link}`);
});
for (const each of new Set(broken)) {
  process.stderr.write(`${each}\n`);
}
process.stdout.write(`${pages.length} pages, ${new Set(broken).size} broken links\n`);
process.exitCode = broken.length === 0 && pages.length > 0 ? 0 : 1;
