import { UsageError } from './usage-error.js';

/**
 * The URL, or one for each host where it names several (PostgreSQL manual, 34.1.1.3), which pg does not read. Refuses what
 * is no PostgreSQL URL: done here, since what is further on would quote in its errors what it took for the
 * host or the database, and in a URL with a stray `/`, `#` or `@` those are parts of the password.
 *
 * @param source where the URL was found, for the message
 */
export function postgresUrls(source: string, url: string): string[] {
  const [, scheme, authority, rest] = /^(postgres(?:ql)?:)\/\/([^/?#]*)(.*)$/s.exec(url) ?? [];
  if (scheme === undefined || authority === undefined || rest === undefined) {
    throw new UsageError(`${source} is not a PostgreSQL URL: postgres://user:password@host:5432/database.`);
  }
  const authorities = hostsOf(authority);
  if (/[@#]/.test(rest) || !authorities.every(isReadable)) {
    throw new UsageError(`${source} cannot be read. Percent-encode special characters in the user and the password.`);
  }
  return authorities.map((each) => `${scheme}//${each}${rest}`);
}

/** `user:password@one:5432,two:5433`, host by host. */
function hostsOf(authority: string): string[] {
  const at = authority.lastIndexOf('@') + 1;
  const hosts = authority.slice(at).split(',');
  return hosts.map((host) => authority.slice(0, at) + host);
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
