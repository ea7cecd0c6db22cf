import { Migrator } from '../migrate/migrate.js';
import { print, printProgress, type CommandContext } from './command.js';

export async function migrationRun({ dataSource, schema }: CommandContext): Promise<void> {
  const applied = await new Migrator(dataSource, schema, printProgress).run();
  for (const name of applied) {
    print(`applied ${name}`);
  }
  if (applied.length === 0) {
    print('nothing to apply');
  }
}
