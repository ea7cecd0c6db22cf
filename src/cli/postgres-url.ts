import { UsageError } from './usage-error.js';

/**
 * Refuses what is no PostgreSQL URL. Done here, since what is further on would quote in its errors what it took for the
 * host or the database, and in a URL with a stray `/`, `#` or `@` those are parts of the password.
 *
 * @param source where the URL was found, for the message
 */
export function assertPostgresUrl(source: string, url: string): void {
  const [, authority, rest] = /^postgres(?:ql)?:\/\/([^/?#]*)(.*)$/s.exec(url) ?? [];
  if (authority === undefined || rest === undefined) {
    throw new UsageError(`${source} is not a PostgreSQL URL: postgres://user:password@host:5432/database.`);
  }
  if (/[@#]/.test(rest) || !isReadable(authority)) {
    throw new UsageError(`${source} cannot be read. Percent-encode special characters in the user and the password.`);
  }
}

function isReadable(authority: string): boolean {
  try {
    decodeURIComponent(authority);
  } catch {
    return false;
  }
  // No host at all (a Unix socket, which ?host= names) is fine for PostgreSQL, but not for URL.
  return URL.canParse(`postgres://${authority.replace(/@$/, '@localhost')}`);
}
