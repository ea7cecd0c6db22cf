import { Migrator } from '../migrate/migrate.js';
import { print, type CommandContext } from './command.js';

export async function migrationShow({ dataSource, schema }: CommandContext): Promise<void> {
  for (const { name, applied } of await new Migrator(dataSource, schema).show()) {
    print(`[${applied ? 'X' : ' '}] ${name}`);
  }
}
