import { Migrator } from '../migrate/migrate.js';
import { print, printJson, printProgress, type CommandContext } from './command.js';

export async function migrationRun({ dataSource, schema, json }: CommandContext): Promise<void> {
  const applied = await new Migrator(dataSource, schema, printProgress).run();
  if (json) {
    return printJson({ applied });
  }
  for (const name of applied) {
    print(`applied ${name}`);
  }
  if (applied.length === 0) {
    print('nothing to apply');
  }
}
