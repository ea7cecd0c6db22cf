/**
 * Compiles every block of TypeScript in README and docs against the sources, as one program: `npm run docs:check`. With
 * `--print` it shows what it makes of them. `<!-- check: nothing | why -->` before a block leaves it alone.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { type Module, moduleOf } from './block-modules.js';
import { blocksOf, ROOT, userPages } from './pages.js';

const LANGUAGES = new Set(['ts', 'typescript']);

/** The package's own entries, by their sources. */
function ownPaths(): Record<string, string[]> {
  const { exports: entries } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    exports: Record<string, string | { require: { default: string } }>;
  };
  return Object.fromEntries(
    Object.entries(entries).flatMap(([entry, target]) =>
      typeof target === 'string'
        ? []
        : [
            [
              entry.replace(/^\./, 'nestjs-idempotency'),
              [join(ROOT, target.require.default.replace('./dist/', '').replace(/\.js$/, '.ts'))],
            ],
          ],
    ),
  );
}

function compile(modules: Module[]): readonly ts.Diagnostic[] {
  const config = ts.parseJsonConfigFileContent(
    ts.readConfigFile(join(ROOT, 'tsconfig.json'), (file) => ts.sys.readFile(file)).config,
    ts.sys,
    ROOT,
  );
  const options: ts.CompilerOptions = {
    ...config.options,
    noEmit: true,
    paths: ownPaths(),
    // Excerpts: not all that they declare is used, nor is every parameter typed.
    noUnusedLocals: false,
    noUnusedParameters: false,
    noImplicitAny: false,
    isolatedModules: false,
    emitDecoratorMetadata: false,
    declaration: false,
  };
  const texts = new Map(modules.map(({ file, text }) => [file, text]));
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (file) => texts.has(file) || fileExists.call(host, file);
  host.readFile = (file) => texts.get(file) ?? readFile.call(host, file);
  host.getSourceFile = (file, languageVersion, ...others) => {
    const text = texts.get(file);
    return text === undefined
      ? getSourceFile.call(host, file, languageVersion, ...others)
      : ts.createSourceFile(file, text, languageVersion, true);
  };
  const program = ts.createProgram([...texts.keys()], options, host);
  return [
    ...program.getOptionsDiagnostics(),
    ...[...texts.keys()].flatMap((file) => {
      const source = program.getSourceFile(file)!;
      return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
    }),
  ];
}

/** `page:line: what is wrong`. */
function tell(diagnostic: ts.Diagnostic, modules: Module[]): string {
  const message = ts.flattenDiagnosticMessageText(diagnostic.messageText, '\n  ');
  const found = modules.find(({ file }) => file === diagnostic.file?.fileName);
  if (found === undefined || diagnostic.start === undefined) {
    return `${diagnostic.file?.fileName ?? ''}: ${message}`;
  }
  const { line } = diagnostic.file!.getLineAndCharacterOfPosition(diagnostic.start);
  const inBlock = found.lines[line];
  return `${found.block.page}:${found.block.line + (inBlock ?? 0)}: ${message}`;
}

const blocks = userPages()
  .flatMap(blocksOf)
  .filter(({ language, directive }) => LANGUAGES.has(language) && directive !== 'nothing');
const modules = blocks.map(moduleOf);
const problems = compile(modules).map((diagnostic) => tell(diagnostic, modules));
for (const problem of problems) {
  process.stderr.write(`${problem}\n`);
}
if (process.argv.includes('--print')) {
  modules.forEach(({ file, text }) => process.stdout.write(`// ${file}\n${text}\n\n`));
}
process.stdout.write(`${blocks.length} blocks of code, ${problems.length} problems\n`);
process.exitCode = problems.length === 0 && blocks.length > 0 ? 0 : 1;
