import type { Connections } from '../connections.js';
import type { KeyStore } from './key-store.js';
import type { KeyIdentity, StoredKey } from '../../protocol/stored-key.js';

/** By one statement, so that no lock of it lasts. */
const FORGOTTEN_AT_A_TIME = 1_000;

/** Keys as the application's own code may see them: never by way of a request's transaction. */
export class StoredKeys {
  constructor(
    private readonly store: KeyStore,
    private readonly connections: Connections,
  ) {}

  find(identity: KeyIdentity): Promise<StoredKey | undefined> {
    return this.store.find(this.connections, identity);
  }

  async forgetScope(scope: string): Promise<number> {
    let total = 0;
    for (;;) {
      const deleted = await this.store.forgetScope(this.connections, scope, FORGOTTEN_AT_A_TIME);
      total += deleted;
      if (deleted < FORGOTTEN_AT_A_TIME) {
        return total;
      }
    }
  }

  forget(identity: KeyIdentity): Promise<boolean> {
    return this.store.forget(this.connections, identity);
  }
}
