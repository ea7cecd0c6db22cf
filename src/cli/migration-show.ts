import { Migrator } from '../migrate/migrate.js';
import { print, printJson, type CommandContext } from './command.js';

export async function migrationShow({ dataSource, schema, json }: CommandContext): Promise<void> {
  const migrator = new Migrator(dataSource, schema);
  const migrations = await migrator.show();
  const { partitions, by } = await migrator.split();
  if (json) {
    return printJson({ migrations, partitions, partitionedBy: by ?? null });
  }
  for (const { name, applied } of migrations) {
    print(`[${applied ? 'X' : ' '}] ${name}`);
  }
  if (by !== undefined) {
    print(`in ${partitions} ${partitions === 1 ? 'partition' : 'partitions'} by ${by}`);
  }
}
