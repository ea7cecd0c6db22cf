import { Migrator } from '../migrate/migrate.js';
import { print, printJson, printProgress, type CommandContext } from './command.js';

export async function migrationRevert({ dataSource, schema, json }: CommandContext): Promise<void> {
  const reverted = await new Migrator(dataSource, schema, printProgress).revert();
  if (json) {
    return printJson({ reverted: reverted ?? null });
  }
  print(reverted === undefined ? 'nothing to revert' : `reverted ${reverted}`);
}
