import type { Adapter } from '../../support/test-app.js';

/** Requests of one client to one route. */
export const LIMIT = 3;

export interface FromApp {
  ports: Partial<Record<Adapter, number>>;
}
