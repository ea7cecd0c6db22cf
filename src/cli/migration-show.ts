import { Migrator } from '../migrate/migrate.js';
import { print, printJson, type CommandContext } from './command.js';

export async function migrationShow({ dataSource, schema, json }: CommandContext): Promise<void> {
  const migrator = new Migrator(dataSource, schema);
  const migrations = await migrator.show();
  const partitions = await migrator.partitions();
  if (json) {
    return printJson({ migrations, partitions });
  }
  for (const { name, applied } of migrations) {
    print(`[${applied ? 'X' : ' '}] ${name}`);
  }
  if (partitions > 0) {
    print(`in ${partitions} HASH partitions`);
  }
}
