import type { Connections } from '../connections.js';
import type { KeyStore } from './key-store.js';
import type { KeyIdentity, StoredKey } from '../../protocol/stored-key.js';

/** Keys as the application's own code may see them: never by way of a request's transaction. */
export class StoredKeys {
  constructor(
    private readonly store: KeyStore,
    private readonly connections: Connections,
  ) {}

  find(identity: KeyIdentity): Promise<StoredKey | undefined> {
    return this.store.find(this.connections, identity);
  }

  forget(identity: KeyIdentity): Promise<boolean> {
    return this.store.forget(this.connections, identity);
  }
}
