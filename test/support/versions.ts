import { readFileSync } from 'node:fs';

/** Of what is installed: Express 4 and Fastify 4 come with 10, Express 5 and Fastify 5 with 11 and later. */
export const NESTJS_MAJOR = Number.parseInt(versionOf('@nestjs/core'));

function versionOf(name: string): string {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')) as { version: string };
  return version;
}
