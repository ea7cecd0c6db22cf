/** Tags a release from CHANGELOG.md: `node scripts/release.js 1.2.0`. Pushes and publishes nothing. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';

const git = (...args) => execFileSync('git', args, { encoding: 'utf8' }).trim();
const refuse = (why) => {
  console.error(why);
  process.exit(1);
};

const [version] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync('package.json', 'utf8'));
const changelog = readFileSync('CHANGELOG.md', 'utf8');
const [, notes] = /^## \[Unreleased\]\n(.*?)(?=^## \[|$(?![\s\S]))/ms.exec(changelog) ?? [];

if (!/^\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?$/.test(version ?? '')) {
  refuse('Which version? For example: node scripts/release.js 1.2.0');
}
if (version.localeCompare(manifest.version, 'en', { numeric: true }) < 0) {
  refuse(`${version} is older than ${manifest.version}, which package.json has.`);
}
if (manifest.repository === undefined) {
  refuse('package.json has no `repository`: npm takes the links and pictures of README.md from there.');
}
if (git('tag', '--list', `v${version}`) !== '') {
  refuse(`There is a tag v${version} already.`);
}
if (git('status', '--porcelain') !== '') {
  refuse('There are changes that are not committed.');
}
if (!notes?.trim()) {
  refuse('CHANGELOG.md has nothing under "Unreleased".');
}

const today = new Date().toISOString().slice(0, 10);
writeFileSync(
  'CHANGELOG.md',
  changelog.replace('## [Unreleased]\n', () => `## [Unreleased]\n\n## [${version}] - ${today}\n`),
);
execFileSync('npm', ['version', version, '--no-git-tag-version', '--allow-same-version'], { stdio: 'ignore' });
git('add', 'CHANGELOG.md', 'package.json', 'package-lock.json');
git('commit', '--message', `Release ${version}`);
git('tag', '--annotate', `v${version}`, '--message', `${version}\n\n${notes.trim()}`);
console.log(`Tagged v${version}. Next: git push --follow-tags && npm publish`);
