import { expect, it } from '@jest/globals';
import ts from 'typescript';
import { read, tableOf } from '../../docs/pages.js';

const source = ts.createSourceFile('events.ts', read('src/protocol/events.ts'), ts.ScriptTarget.Latest, true);

/** The texts in the types of the file's declarations: of a union, of the member `type`. */
function typesOf(node: ts.Node): string[] {
  if (ts.isLiteralTypeNode(node) && ts.isStringLiteral(node.literal)) {
    return [node.literal.text];
  }
  return node.getChildren(source).flatMap(typesOf);
}

const declared = source.statements.flatMap((statement) => {
  if (ts.isTypeAliasDeclaration(statement)) {
    return [{ types: typesOf(statement.type), members: [] }];
  }
  if (!ts.isInterfaceDeclaration(statement)) {
    return [];
  }
  const type = statement.members.find((member) => member.name?.getText(source) === 'type');
  const members = statement.members.map((member) => member.name!.getText(source));
  return [{ types: type === undefined ? [] : typesOf(type), members }];
});

const types = declared.flatMap(({ types: each }) => each);
const members = declared.flatMap(({ members: each }) => each);

/** What has code marks in the section on events. */
const section = /^## Events\n([\s\S]*?)^## /m.exec(read('docs/monitoring.md'))?.[1] ?? '';
const named = new Set([...section.matchAll(/`([^`\n]+)`/g)].map(([, name = '']) => name));

it('docs/monitoring.md tells of each type and each member of an event', () => {
  expect(types.length + members.length).toBeGreaterThan(40);
  expect([...types, ...members].filter((name) => !named.has(name))).toEqual([]);
});

it('docs/monitoring.md has a table of types, and none in it that there is not', () => {
  const rows = tableOf(section, '`type`').flatMap(([cell = '']) => [...cell.matchAll(/`([^`]+)`/g)]);
  expect(rows.length).toBeGreaterThan(20);
  expect(rows.map(([, name = '']) => name).filter((name) => !types.includes(name))).toEqual([]);
});
