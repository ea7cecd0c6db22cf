import { sqlStateOf } from '../postgres/sqlstate.js';
import { UsageError } from './usage-error.js';

/** What to do about an error, by its SQLSTATE (PostgreSQL manual, appendix A) or the system's code. */
const REMEDIES: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'Nothing listens there: is PostgreSQL running, and are host and port right?',
  ENOENT: 'There is no such socket: is PostgreSQL running, and is its directory right?',
  ENOTFOUND: 'The host has no address: is its name right?',
  EAI_AGAIN: 'The name service did not answer: is the network up?',
  ETIMEDOUT: 'The host did not answer: is it reachable from here?',
  '25006': 'This is a read-only server: connect to the primary.',
  '28000': 'Check the user, and what pg_hba.conf lets it do.',
  '28P01': 'Check the user and the password.',
  '3D000': 'Create the database, or correct its name.',
  '3F000': 'Create the schema, or name it with --schema: then migration:run creates it.',
  '42501': 'Connect as a role with that right, or hand the output of migration:sql to one who has it.',
  '42P01': 'Run migration:run first, with the same --schema or --data-source.',
  '42P07': 'Another DataSource made it: run the migrations with that one, or name another --schema.',
  '55P03': 'Somebody else has kept using the table. Nothing was changed: run it again when that is over.',
  '53300': 'The server has no connection left: try again later.',
};

/** The exit code, and the message that goes to stderr. */
export function describeFailure(error: unknown): { exitCode: 1 | 2; message: string } {
  if (error instanceof UsageError) {
    return { exitCode: 2, message: `${redact(error.message)}\nnestjs-idempotency --help lists commands and options.` };
  }
  const remedy = REMEDIES[sqlStateOf(error) ?? ''];
  return { exitCode: 1, message: redact([messageOf(error), remedy].filter(Boolean).join('\n')) };
}

/** Node's error for a host with several addresses has an empty message of its own. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError) {
    return error.errors.map(messageOf).join('; ');
  }
  return error instanceof Error ? error.message : String(error);
}

/** A module of the user's may quote its URL when it fails to load. */
function redact(text: string): string {
  return text.replaceAll(/(\w:\/\/[^\s:/@]*:)\S*@/g, '$1***@');
}
