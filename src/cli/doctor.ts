import type { DataSource } from 'typeorm';
import { Migrator } from '../migrate/migrate.js';
import { dataSourceSchema } from '../postgres/data-source-schema.js';
import { Diagnosis } from '../postgres/statements/diagnosis.js';
import { findKeyTables } from '../postgres/statements/key-tables.js';
import { type CommandContext, EXIT, print, printJson } from './command.js';
import { type Finding, findingsOnKeys, findingsOnPool, findingsOnServer, findingsOnTables } from './findings.js';

/** Looks for all that is known to go wrong, changes nothing, and fails where it has found something. */
export async function doctor(context: CommandContext): Promise<number> {
  const findings = await examine(context);
  if (context.json) {
    printJson({ findings });
  } else if (findings.length === 0) {
    print('nothing found');
  }
  for (const { check, problem, remedy } of context.json ? [] : findings) {
    print(`${check}: ${problem}\n  ${remedy}`);
  }
  return findings.length === 0 ? EXIT.done : EXIT.finding;
}

async function examine(context: CommandContext): Promise<Finding[]> {
  const { dataSource, schema, poolSize, instances } = context;
  const diagnosis = new Diagnosis(dataSource);
  const askedAt = Date.now();
  const server = await diagnosis.server();
  const skewMs = server.clockMs - (askedAt + Date.now()) / 2;
  const pooler = (await sessionPid(dataSource)) !== server.backendPid;
  const found = [
    ...findingsOnServer(server, skewMs),
    ...findingsOnPool(server, {
      poolSize,
      instances,
      pooler,
      keepsStatements: await diagnosis.keepsPreparedStatements(),
    }),
  ];
  const wanted = schema ?? dataSourceSchema(dataSource);
  const option = schema === undefined ? '' : ` --schema ${schema}`;
  const pending = (await new Migrator(dataSource, schema).show()).filter(({ applied }) => !applied);
  const tables = await findKeyTables(dataSource, wanted);
  if (tables === undefined) {
    const problem = `the tables are not there, or not of this version (${pending.map(({ name }) => name).join(', ')})`;
    return [...found, { check: 'schema', problem, remedy: `Run: npx nestjs-idempotency migration:run${option}` }];
  }
  const facts = await diagnosis.tables(tables.schema);
  return [
    ...found,
    ...findingsOnTables(facts, { schema: tables.schema, isNamed: wanted !== undefined, role: server.role }),
    ...(facts.missingRights.length > 0 ? [] : findingsOnKeys(await diagnosis.keys(tables.schema), option)),
  ];
}

/** As the server has told it at the start of the session: a pooler between the two makes one up. */
async function sessionPid(dataSource: DataSource): Promise<number> {
  const runner = dataSource.createQueryRunner('master');
  try {
    const client = (await runner.connect()) as { processID: number };
    return client.processID;
  } finally {
    await runner.release();
  }
}
