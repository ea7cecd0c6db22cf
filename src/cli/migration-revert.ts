import { Migrator } from '../migrate/migrate.js';
import { print, printProgress, type CommandContext } from './command.js';

export async function migrationRevert({ dataSource, schema }: CommandContext): Promise<void> {
  const reverted = await new Migrator(dataSource, schema, printProgress).revert();
  print(reverted === undefined ? 'nothing to revert' : `reverted ${reverted}`);
}
