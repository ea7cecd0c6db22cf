import { Migrator } from '../migrate/migrate.js';
import { dataSourceSchema } from '../postgres/data-source-schema.js';
import { Diagnosis } from '../postgres/statements/diagnosis.js';
import { findKeyTables, isDistributed } from '../postgres/statements/key-tables.js';
import { type CommandContext, EXIT, print, printJson } from './command.js';
import {
  type Finding,
  findingsOnCitus,
  findingsOnIdleTransactions,
  findingsOnKeys,
  findingsOnPool,
  findingsOnServer,
  findingsOnTables,
  LONGEST_IDLE_S,
} from './findings.js';
import { findPooler, type Pooler } from './pooler.js';
import { findingsOnVersions, installedVersions, type Versions } from './versions.js';

/** What there is, for whoever reads the findings. */
interface Surroundings {
  readonly versions: Versions & { readonly postgres: string };
  readonly pooler: Pooler | null;
}

/** Looks for all that is known to go wrong, changes nothing, and fails where it has found something. */
export async function doctor(context: CommandContext): Promise<number> {
  const { surroundings, findings } = await examine(context);
  if (context.json) {
    printJson({ ...surroundings, findings });
  } else {
    print(described(surroundings));
    if (findings.length === 0) {
      print('nothing found');
    }
  }
  for (const { check, problem, remedy } of context.json ? [] : findings) {
    print(`${check}: ${problem}\n  ${remedy}`);
  }
  return findings.length === 0 ? EXIT.done : EXIT.finding;
}

function described({ versions: { library, postgres, typeorm, pg }, pooler }: Surroundings): string {
  const between = pooler === null ? '' : ` behind a pooler in ${pooler.mode} mode`;
  return `nestjs-idempotency ${library}, TypeORM ${typeorm}, pg ${pg}, on PostgreSQL ${postgres}${between}`;
}

async function examine(context: CommandContext): Promise<{ surroundings: Surroundings; findings: Finding[] }> {
  const { dataSource, poolSize, instances } = context;
  const diagnosis = new Diagnosis(dataSource);
  const askedAt = Date.now();
  const server = await diagnosis.server();
  const skewMs = server.clockMs - (askedAt + Date.now()) / 2;
  const pooler = await findPooler(dataSource);
  const versions = installedVersions();
  const findings = [
    ...findingsOnVersions(versions),
    ...findingsOnServer(server, skewMs),
    ...findingsOnIdleTransactions(server, await diagnosis.idleTransactions(LONGEST_IDLE_S)),
    ...findingsOnPool(server, { poolSize, instances, pooler }),
    ...(pooler?.mode === 'statement' ? [] : await examineTables(context, diagnosis, server.role)),
  ];
  return {
    surroundings: { versions: { ...versions, postgres: server.versionName }, pooler: pooler ?? null },
    findings,
  };
}

async function examineTables(
  { dataSource, schema }: CommandContext,
  diagnosis: Diagnosis,
  role: string,
): Promise<Finding[]> {
  const wanted = schema ?? dataSourceSchema(dataSource);
  const option = schema === undefined ? '' : ` --schema ${schema}`;
  const pending = (await new Migrator(dataSource, schema).show()).filter(({ applied }) => !applied);
  const tables = await findKeyTables(dataSource, wanted);
  if (tables === undefined) {
    const problem = `the tables are not there, or not of this version (${pending.map(({ name }) => name).join(', ')})`;
    return [{ check: 'schema', problem, remedy: `Run: npx nestjs-idempotency migration:run${option}` }];
  }
  const facts = await diagnosis.tables(tables.schema);
  const bloatedShards = isDistributed(tables) ? await diagnosis.bloatedShards(tables.schema) : [];
  const bloated = [...facts.bloated, ...bloatedShards];
  return [
    ...findingsOnTables({ ...facts, bloated }, { schema: tables.schema, isNamed: wanted !== undefined, role }),
    ...findingsOnCitus(tables.citus, tables.schema),
    ...(facts.missingRights.length > 0 ? [] : findingsOnKeys(await diagnosis.keys(tables.schema), option)),
  ];
}
