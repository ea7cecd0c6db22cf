import { existsSync, readFileSync } from 'node:fs';

/** Of what is installed: Express 4 and Fastify 4 come with 10, Express 5 and Fastify 5 with 11 and later. */
export const NESTJS_MAJOR = Number.parseInt(versionOf('@nestjs/core'));

/**
 * Before Fastify 5.12.8 a response ends with its stream, and a trailer that is there later is lost; but not where the
 * response waits for COMMIT.
 */
export const KEEPS_LATE_TRAILERS = isSince(versionOf('fastify', '@nestjs/platform-fastify'), [5, 12, 8]);

/** NestJS' own interceptors of uploads on Fastify came with NestJS 12. */
export const FASTIFY_UPLOADS = NESTJS_MAJOR < 12 ? undefined : await import('@nestjs/platform-fastify/multipart');

/** @param of whose dependency it is: it may have a copy of its own */
function versionOf(name: string, of = ''): string {
  const own = `node_modules/${of}/node_modules/${name}/package.json`;
  const file = existsSync(own) ? own : `node_modules/${name}/package.json`;
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

function isSince(version: string, [major, minor, patch]: readonly [number, number, number]): boolean {
  const [ofMajor = 0, ofMinor = 0, ofPatch = 0] = version.split('.').map(Number);
  return ofMajor > major || (ofMajor === major && (ofMinor > minor || (ofMinor === minor && ofPatch >= patch)));
}
