/**
 * What the built package declares, entry by entry: `node scripts/public-api.js` compares it with the committed snapshot,
 * `--write` renews that. A change of it is a change that users see.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const DIST = join(ROOT, 'dist/');
const SNAPSHOT = join(ROOT, 'test/package/public-api.txt');

const { exports } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
const entries = Object.entries(exports).flatMap(([name, conditions]) => {
  const types = (conditions.require ?? conditions.import ?? conditions).types;
  return types === undefined ? [] : [[name, join(ROOT, types)]];
});
const program = ts.createProgram(
  entries.map(([, path]) => path),
  { module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022, strict: true, skipLibCheck: true },
);
const checker = program.getTypeChecker();
const printer = ts.createPrinter({ removeComments: true });

const current = entries.map(([name, path]) => `// ${name}\n\n${declarationsOf(path).join('\n')}`).join('\n\n');
if (process.argv.includes('--write')) {
  writeFileSync(SNAPSHOT, `${current}\n`);
} else if (readFileSync(SNAPSHOT, 'utf8') !== `${current}\n`) {
  showDifference(readFileSync(SNAPSHOT, 'utf8').split('\n'), current.split('\n'));
  console.error(
    'The public API is not that of test/package/public-api.txt. Where that is meant: node scripts/public-api.js --write',
  );
  process.exitCode = 1;
}

/** Those of what is exported, and of all of ours that they refer to. */
function declarationsOf(path) {
  const reached = new Set(
    checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(path))).map(original),
  );
  for (const symbol of reached) {
    symbol.declarations?.forEach((declaration) => reach(declaration, reached));
  }
  return [...reached]
    .toSorted((one, other) => (one.name < other.name ? -1 : 1))
    .flatMap((symbol) => (symbol.declarations ?? []).map(textOf));
}

function reach(node, reached) {
  const symbol = ts.isIdentifier(node) ? original(checker.getSymbolAtLocation(node)) : undefined;
  const isOurs = symbol?.declarations?.some(
    (declaration) => ts.isSourceFile(declaration.parent) && declaration.getSourceFile().fileName.startsWith(DIST),
  );
  if (isOurs) reached.add(symbol);
  ts.forEachChild(node, (child) => reach(child, reached));
}

function original(symbol) {
  return symbol && symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
}

function textOf(declaration) {
  const statement = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
  return printer.printNode(ts.EmitHint.Unspecified, statement, statement.getSourceFile());
}

function showDifference(before, after) {
  const [had, has] = [new Set(before), new Set(after)];
  before.filter((line) => !has.has(line)).forEach((line) => console.error(`- ${line}`));
  after.filter((line) => !had.has(line)).forEach((line) => console.error(`+ ${line}`));
}
