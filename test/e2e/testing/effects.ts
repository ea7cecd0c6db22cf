import type { EntityManager } from 'typeorm';
import { Effect } from '../../support/effect.entity.js';

/** A row for each label. */
export async function addEffects(manager: EntityManager, ...labels: string[]): Promise<void> {
  await manager.save(labels.map((label) => manager.create(Effect, { label })));
}
