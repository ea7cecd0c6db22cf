import { SqlScanner, type SqlText } from './sql-scanner.js';

/**
 * The first statement of `sql` that would begin or end a transaction, by its keywords: `COMMIT`, `ROLLBACK PREPARED`.
 * Savepoints and `SET TRANSACTION` are none, nor is anything in a literal, a comment, a DO block or a routine's body.
 */
export function transactionControlIn(sql: SqlText): string | undefined {
  const tokens = new SqlScanner(sql);
  const isOne = typeof sql === 'string' && !sql.includes(';'); // then no long literal need be gone through
  while (tokens.next()) {
    const control = controlAt(tokens);
    if (control !== undefined || isOne) {
      return control;
    }
    skipStatement(tokens);
  }
  return undefined;
}

/** What changes something besides rows, so that it does not fail in a read-only transaction but is undone with it. */
const EFFECTS = ['nextval', 'setval', 'set_config', 'pg_notify', 'pg_advisory', 'pg_try_advisory', 'lo_', 'dblink'];
const WRITES = ['insert', 'update', 'delete', 'merge', 'into'];

/** Whether `sql` is one statement that only reads, as far as can be told from its words; in doubt it is not. */
export function isRead(sql: string): boolean {
  const tokens = new SqlScanner(sql);
  if (!beginsQuery(tokens)) {
    return false;
  }
  while (!tokens.is(';')) {
    if (WRITES.some((word) => tokens.is(word)) || EFFECTS.some((prefix) => tokens.beginsWith(prefix))) {
      return false;
    }
    if (!tokens.next()) {
      return true;
    }
  }
  return !tokens.next();
}

/** Whether DECLARE CURSOR takes it: a query that writes no rows. Locking them is allowed. */
export function fitsCursor(sql: string): boolean {
  const tokens = new SqlScanner(sql);
  if (!beginsQuery(tokens)) {
    return false;
  }
  let locks = false;
  do {
    if (!locks && WRITES.some((word) => tokens.is(word))) {
      return false;
    }
    locks = tokens.is('for') || tokens.is('key'); // FOR UPDATE, FOR NO KEY UPDATE
  } while (tokens.next());
  return true;
}

function beginsQuery(tokens: SqlScanner): boolean {
  return tokens.next() && ['select', 'with', 'values', 'table', '('].some((token) => tokens.is(token));
}

/** Reads no further than is needed to know the statement. */
function controlAt(tokens: SqlScanner): string | undefined {
  if (tokens.is('commit') || tokens.is('rollback')) {
    return endAt(tokens);
  }
  if (tokens.is('begin')) {
    return 'BEGIN';
  }
  if (tokens.is('end')) {
    return 'END';
  }
  if (tokens.is('abort')) {
    return 'ABORT';
  }
  if (tokens.is('start')) {
    return tokens.next() && tokens.is('transaction') ? 'START TRANSACTION' : undefined;
  }
  if (tokens.is('prepare')) {
    return preparesTransaction(tokens) ? 'PREPARE TRANSACTION' : undefined;
  }
  if (tokens.is('create')) {
    skipRoutine(tokens);
  }
  return undefined;
}

function endAt(tokens: SqlScanner): string | undefined {
  const word = tokens.is('commit') ? 'COMMIT' : 'ROLLBACK';
  if (!tokens.next()) {
    return word;
  }
  if (tokens.is('prepared')) {
    return `${word} PREPARED`;
  }
  if (tokens.is('work') || tokens.is('transaction')) {
    tokens.next();
  }
  return word === 'ROLLBACK' && tokens.is('to') ? undefined : word;
}

/** A prepared statement, too, may be named `transaction`. */
function preparesTransaction(tokens: SqlScanner): boolean {
  return tokens.next() && tokens.is('transaction') && tokens.next() && !tokens.is('as') && !tokens.is('(');
}

/** Goes to the semicolon that ends the statement. A rule's actions have their own, but none of them is of interest here. */
function skipStatement(tokens: SqlScanner): void {
  while (!tokens.is(';') && tokens.next()) {}
}

/** The same for CREATE FUNCTION and CREATE PROCEDURE, whose body may be statements that are not quoted. */
function skipRoutine(tokens: SqlScanner): void {
  tokens.next();
  if (tokens.is('or')) {
    tokens.next(); // replace
    tokens.next();
  }
  if (!tokens.is('function') && !tokens.is('procedure')) {
    return;
  }
  let depth = 0;
  let hasBegun = false;
  while (!tokens.is(';') && tokens.next()) {
    if (tokens.is('(')) {
      depth++; // a parameter may be named begin, and be of a type named atomic
    } else if (tokens.is(')')) {
      depth--;
    } else if (depth === 0 && hasBegun && tokens.is('atomic')) {
      skipBody(tokens);
    }
    hasBegun = tokens.is('begin');
  }
}

/** No statement of the body begins with END: the one that does ends it. That of a CASE stands further on. */
function skipBody(tokens: SqlScanner): void {
  let isFirst = true;
  while (tokens.next() && !(isFirst && tokens.is('end'))) {
    isFirst = tokens.is(';');
  }
}
