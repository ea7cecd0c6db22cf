/**
 * Makes a module of a block of code. A block is an excerpt: what it leaves out is taken from `surroundings/<page>.ts`, or
 * `surroundings/common.ts` where that page has none: the imports, and what the reader's own application is made of. A
 * decorated method, or a constructor, is taken for a member of a class; what uses `this` outside of one for the body of a
 * method.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import ts from 'typescript';
import { type Block, ROOT } from './pages.js';

const FOLDER = join(ROOT, 'test/docs/surroundings');
export interface Module {
  block: Block;
  file: string;
  text: string;
  /** Lines in front of the block's own first one, for each line of `text`: which line of the block it is, or none. */
  lines: (number | undefined)[];
}

/** A part of a block that blank lines set apart, and that is whole by itself. */
interface Segment {
  text: string;
  /** Of its first line, in the block. */
  line: number;
  isMember: boolean;
}

const parse = (text: string): ts.SourceFile =>
  ts.createSourceFile('block.ts', text, ts.ScriptTarget.Latest, true, ts.ScriptKind.TS);

/** Whether the text stands in a class, and nowhere else. */
function isMember(text: string): boolean {
  const code = text.replaceAll(/^\s*(?:\/\/.*|\/\*[\s\S]*?\*\/)\s*$/gm, '').trimStart();
  if (/^constructor\s*\(/.test(code)) {
    return true;
  }
  if (!code.startsWith('@')) {
    return false;
  }
  const [first] = parse(`class Members {\n${text}\n}`).statements;
  return (
    first !== undefined && ts.isClassDeclaration(first) && first.members.some(ts.isMethodDeclaration) && !isClass(text)
  );
}

function isClass(text: string): boolean {
  return parse(text).statements.some(ts.isClassDeclaration);
}

/** Brackets are balanced at the end of each. */
function segmentsOf(code: string): Segment[] {
  const segments: Segment[] = [];
  let text = '';
  let start = 0;
  const lines = code.split('\n');
  for (const [index, line] of [...lines, ''].entries()) {
    if (line.trim() === '' && text.trim() !== '' && isWhole(text)) {
      segments.push({ text, line: start, isMember: isMember(text) });
      text = '';
    } else if (text === '' && line.trim() === '') {
      continue;
    } else {
      start = text === '' ? index : start;
      text += `${line}\n`;
    }
  }
  return text.trim() === '' ? segments : [...segments, { text, line: start, isMember: isMember(text) }];
}

function isWhole(text: string): boolean {
  const code = text.replaceAll(
    /`(?:\\.|[^`\\])*`|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|\/\/.*|\/\*[\s\S]*?\*\//g,
    '',
  );
  return (code.match(/[([{]/g) ?? []).length <= (code.match(/[)\]}]/g) ?? []).length;
}

/** The names that a module exports, with those of the modules that it exports as a whole. */
function exportsOf(file: string): Set<string> {
  const names = new Set<string>();
  for (const statement of parse(readFileSync(file, 'utf8')).statements) {
    if (ts.isExportDeclaration(statement) && statement.exportClause === undefined) {
      const from = (statement.moduleSpecifier as ts.StringLiteral).text;
      exportsOf(join(FOLDER, from.replace(/\.js$/, '.ts'))).forEach((name) => names.add(name));
    } else if (ts.isExportDeclaration(statement)) {
      const clause = statement.exportClause!;
      const exported = ts.isNamedExports(clause) ? clause.elements.map(({ name }) => name) : [clause.name];
      exported.forEach(({ text }) => names.add(text));
    } else {
      namesOf(statement).forEach((name) => names.add(name));
    }
  }
  return names;
}

function namesOf(statement: ts.Statement): string[] {
  if (ts.isImportDeclaration(statement)) {
    const { name, namedBindings } = statement.importClause ?? {};
    const bindings =
      namedBindings === undefined
        ? []
        : ts.isNamespaceImport(namedBindings)
          ? [namedBindings.name]
          : namedBindings.elements.map((element) => element.name);
    return [...(name === undefined ? [] : [name]), ...bindings].map(({ text }) => text);
  }
  if (ts.isVariableStatement(statement)) {
    return statement.declarationList.declarations.flatMap(({ name }) => bound(name));
  }
  const { name } = statement as { name?: ts.Identifier };
  return name === undefined ? [] : [name.text];
}

function bound(name: ts.BindingName): string[] {
  return ts.isIdentifier(name)
    ? [name.text]
    : name.elements.flatMap((element) => (ts.isOmittedExpression(element) ? [] : bound(element.name)));
}

/** Those in texts and comments do no harm. */
function identifiersIn(text: string): Set<string> {
  return new Set(text.match(/[A-Za-z_$][\w$]*/g));
}

/** What a block becomes, to be compiled beside the sources. */
export function moduleOf(block: Block): Module {
  const page = basename(block.page, '.md').toLowerCase();
  const own = join(FOLDER, `${page}.ts`);
  const from = existsSync(own) ? page : 'common';
  const segments = segmentsOf(block.code);
  const others = segments.filter(({ isMember: member }) => !member);
  const statements = parse(others.map(({ text }) => text).join('\n')).statements;
  const declared = new Set(statements.flatMap(namesOf));
  const used = identifiersIn(block.code);
  const wanted = [...exportsOf(join(FOLDER, `${from}.ts`))].filter((name) => used.has(name) && !declared.has(name));
  const isModule = statements.some(
    (statement) =>
      ts.isImportDeclaration(statement) ||
      ts.isExportAssignment(statement) ||
      (ts.canHaveModifiers(statement) &&
        ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)),
  );

  const out: { text: string; line?: number }[] = [
    { text: `import { ${[...wanted, 'Surroundings as Surroundings_'].join(', ')} } from './${from}.js';` },
  ];
  const add = ({ text, line }: Segment): void => {
    text.split('\n').forEach((each, index) => out.push({ text: each, line: line + index }));
  };
  if (!isModule) out.push({ text: 'async function block_(this: Surroundings_) {' });
  others.forEach(add);
  if (!isModule) out.push({ text: '}\nvoid block_;' });
  const members = segments.filter(({ isMember: member }) => member);
  if (members.length > 0) {
    out.push({ text: 'export class Members_ extends Surroundings_ {' });
    if (members.some(({ text }) => /^constructor\s*\(/m.test(text))) {
      // A constructor of an excerpt calls no other one.
      out.splice(-1, 1, { text: 'export class Members_ { [member: string]: any;' });
    }
    members.forEach(add);
    out.push({ text: '}' });
  }
  out.push({ text: 'export {};' });
  const rows = out.flatMap(({ text, line }) => text.split('\n').map((each) => ({ text: each, line })));
  return {
    block,
    file: join(FOLDER, `${page}-${block.line}.block.ts`),
    text: rows.map(({ text }) => text).join('\n'),
    lines: rows.map(({ line }) => line),
  };
}
