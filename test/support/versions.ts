import { existsSync, readFileSync } from 'node:fs';

/** Of what is installed: Express 4 and Fastify 4 come with 10, Express 5 and Fastify 5 with 11 and later. */
export const NESTJS_MAJOR = Number.parseInt(packageOf('@nestjs/core').version);

/** @param version major and minor: `12.4` */
export function isNestJsSince(version: string): boolean {
  return isSince(packageOf('@nestjs/core').version, version);
}

/**
 * Before Fastify 5.12.8 a response ends with its stream, and a trailer that is there later is lost; but not where the
 * response waits for COMMIT.
 */
export const KEEPS_LATE_TRAILERS = isSince(packageOf('fastify', '@nestjs/platform-fastify').version, '5.12.8');

/** Of a client that goes away, with Express; so does a plain application's. */
export const LEAVES_STREAMS_OPEN = isNestJsSince('12') && !isNestJsSince('12.1');

/** NestJS' own interceptors of uploads on Fastify, which the newer releases of NestJS 12 have. */
export const FASTIFY_UPLOADS =
  packageOf('@nestjs/platform-fastify').exports?.['./multipart'] === undefined
    ? undefined
    : await import('@nestjs/platform-fastify/multipart');

interface Package {
  version: string;
  exports?: Record<string, unknown>;
}

/** @param of whose dependency it is: it may have a copy of its own */
function packageOf(name: string, of = ''): Package {
  const own = `node_modules/${of}/node_modules/${name}/package.json`;
  const file = existsSync(own) ? own : `node_modules/${name}/package.json`;
  return JSON.parse(readFileSync(file, 'utf8')) as Package;
}

function isSince(version: string, first: string): boolean {
  return version.localeCompare(first, 'en', { numeric: true }) >= 0;
}
