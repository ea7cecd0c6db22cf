import type { IsolationLevel } from '../../protocol/options.js';
import { SqlScanner } from './sql-scanner.js';
import { transactionControlIn } from './sql-statements.js';

/** What BEGIN asks for that a savepoint can give or must refuse; DEFERRABLE only says how long one may wait. */
export interface Beginning {
  isolation: IsolationLevel | undefined;
  isReadOnly: boolean;
}

export type Ending = 'commit' | 'roll back';

export type Boundary = { begins: Beginning } | { ends: Ending };

const LEVELS = ['serializable', 'repeatable read', 'read committed', 'read uncommitted'];
const MODES = [...LEVELS.map((level) => `isolation level ${level}`), 'read only', 'read write', '(?:not )?deferrable'];
const BEGIN = new RegExp(`^(?:begin(?: work| transaction)?|start transaction)((?: ,)?(?: (?:${MODES.join('|')})))*$`);
const END = /^(commit|end|rollback|abort)(?: work| transaction)?$/;
const LEVEL = new RegExp(`isolation level (${LEVELS.join('|')})`);
const WORDS = [
  ...new Set(
    `${LEVELS.join(' ')} begin start transaction work isolation level only write not deferrable commit end rollback abort`.split(
      ' ',
    ),
  ),
  ',',
];

/** What `sql` begins or ends, where it is one statement that does nothing else. */
export function boundaryIn(sql: string): Boundary | undefined {
  const statement = transactionControlIn(sql) === undefined ? undefined : keywordsOf(sql);
  if (statement === undefined) {
    return undefined;
  }
  const [, end] = END.exec(statement) ?? [];
  if (end !== undefined) {
    return { ends: end === 'commit' || end === 'end' ? 'commit' : 'roll back' };
  }
  if (!BEGIN.test(statement)) {
    return undefined;
  }
  const isolation = LEVEL.exec(statement)?.[1]?.toUpperCase() as IsolationLevel | undefined;
  return { begins: { isolation, isReadOnly: statement.includes('read only') } };
}

/** With one blank in between, where it has no others than those of a boundary. */
function keywordsOf(sql: string): string | undefined {
  const tokens = new SqlScanner(sql);
  const found: string[] = [];
  while (tokens.next() && !tokens.is(';')) {
    const word = WORDS.find((each) => tokens.is(each));
    if (word === undefined) {
      return undefined;
    }
    found.push(word);
  }
  while (tokens.is(';') && tokens.next()) {}
  return tokens.is('') ? found.join(' ') : undefined;
}
