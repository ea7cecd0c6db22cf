/** The site of `npm run docs`: README, the pages of docs/ in their reading order, and the API of every entry. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import footnotes from 'markdown-it-footnote';
import taskLists from 'markdown-it-task-lists';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

/** The sources of `nestjs-idempotency`, `nestjs-idempotency/client` and so on. */
const entries = Object.values(manifest.exports)
  .filter((target) => typeof target === 'object')
  .map(({ require: { default: file } }) => join(ROOT, file.replace('./dist/', '').replace(/\.js$/, '.ts')));

const index = readFileSync(join(ROOT, 'docs/README.md'), 'utf8');
const pages = [...index.matchAll(/^\d+\. .*?\]\(([^)]+)\)/gm)].map(([, page]) => join(ROOT, 'docs', page));

export default {
  name: `nestjs-idempotency ${manifest.version}`,
  entryPoints: entries,
  tsconfig: join(ROOT, 'tsconfig.build.json'),
  readme: join(ROOT, 'README.md'),
  projectDocuments: [join(ROOT, 'docs/README.md'), ...pages, join(ROOT, 'CHANGELOG.md'), join(ROOT, 'SECURITY.md')],
  plugin: [join(ROOT, 'docs/site/page-titles.mjs')],
  out: join(ROOT, 'docs/site/html'),
  excludeInternal: true,
  excludePrivate: true,
  excludeExternals: true,
  disableSources: true, // there is no address of the sources yet to link to
  searchInDocuments: true,
  searchInComments: true,
  highlightLanguages: ['typescript', 'sh', 'sql', 'json', 'python', 'mermaid', 'text'],
  markdownItLoader: (parser) => parser.use(footnotes).use(taskLists),
  treatWarningsAsErrors: true,
  treatValidationWarningsAsErrors: true,
  validation: { notExported: true, invalidLink: true, invalidPath: true, rewrittenLink: true, notDocumented: false },
  intentionallyNotExported: ['Awaitable', 'HoldingMode', 'Migration', 'Situation'],
  githubPages: false,
  hideGenerator: true,
  navigation: { includeCategories: false, includeGroups: false },
};
