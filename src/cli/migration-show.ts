import { Migrator } from '../migrate/migrate.js';
import { print, printJson, type CommandContext } from './command.js';

export async function migrationShow({ dataSource, schema, json }: CommandContext): Promise<void> {
  const migrations = await new Migrator(dataSource, schema).show();
  if (json) {
    return printJson({ migrations });
  }
  for (const { name, applied } of migrations) {
    print(`[${applied ? 'X' : ' '}] ${name}`);
  }
}
