/** The application's limits: small, so that a stall of seconds outlasts them. */
export const ROUTE_LIMITS = {
  timeoutMs: 400,
  overdueTimeoutMs: 80,
  shortTtlMs: 250,
  maxBodyBytes: 2_000,
  accounts: 4,
} as const;

/** The same for the routes in lease mode: a lease that a slow provider outlasts, and a pause that outlasts the lease. */
export const LEASE_LIMITS = {
  leaseMs: 400,
  timeoutMs: 3_000,
  shortTtlMs: 400,
  accounts: 4,
} as const;

export interface Route {
  /** Carried out under a lease, in durable steps; otherwise in one transaction. */
  lease?: true;
  /** How often it is chosen, relative to the others. */
  weight: number;
  /** The status of an execution that is recorded. */
  status: 201 | 402;
  /** What an attempt that is told to fail is answered with; absent on routes that never fail by themselves. */
  failure?: 500 | 503;
  /** The response is not kept: retries get 409 with a problem type of its own. */
  tombstone?: true;
  /** The key expires while it is in use: it may be executed again, once in each of its lives. */
  expires?: true;
  /** Its provider acts at every call. */
  unkeyed?: true;
  /** An interrupted operation waits for an operator. */
  operated?: true;
}

export const ROUTES = {
  plain: { weight: 6, status: 201 },
  slow: { weight: 2, status: 201 },
  declined: { weight: 2, status: 402 },
  approved: { weight: 2, status: 201 },
  failing: { weight: 2, status: 201, failure: 500 },
  overdue: { weight: 0.5, status: 201, failure: 503 },
  serializable: { weight: 1, status: 201 },
  large: { weight: 1, status: 201, tombstone: true },
  raw: { weight: 2, status: 201, failure: 500 },
  swallowed: { weight: 1, status: 201, failure: 500 },
  expiring: { weight: 1, status: 201, expires: true },
} as const satisfies Record<string, Route>;

export const LEASE_ROUTES = {
  transfer: { lease: true, weight: 5, status: 201 },
  stubborn: { lease: true, weight: 2, status: 201 },
  stumbling: { lease: true, weight: 2, status: 201, failure: 500 },
  refused: { lease: true, weight: 1, status: 402 },
  isolated: { lease: true, weight: 1, status: 201 },
  guarded: { lease: true, weight: 4, status: 201, operated: true },
  lapsing: { lease: true, weight: 1, status: 201, expires: true },
  outliving: { lease: true, weight: 1, status: 201 },
  parallel: { lease: true, weight: 2, status: 201, failure: 500 },
  fallback: { lease: true, weight: 2, status: 201, failure: 500 },
  unkeyed: { lease: true, weight: 2, status: 201, failure: 500, unkeyed: true },
  starved: { lease: true, weight: 0.3, status: 201 },
} as const satisfies Record<string, Route>;

export type RouteName = keyof typeof ROUTES | keyof typeof LEASE_ROUTES;

export function routeOf(name: RouteName): Route {
  return { ...ROUTES, ...LEASE_ROUTES }[name];
}
