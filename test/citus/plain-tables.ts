/** Specs whose fixtures are not to be had on Citus. What they test does not depend on it, but for the first three. */
export const KEEPS_TO_PLAIN_TABLES = [
  'table-kinds.spec.ts', // other kinds of tables
  'atomicity/three-services.spec.ts', // by the transaction ids of one server
  'e2e/tenants.spec.ts', // by policies and roles of one server
  // They watch, or refuse, what is written by triggers on the library's tables.
  'e2e/session-settings.spec.ts',
  'e2e/leaks.spec.ts',
  // The example makes pg-boss' schema, which Citus fails to hand on to its workers.
  'e2e/payments-api.spec.ts',
  'e2e/payments-example.spec.ts',
  'e2e/payments-side-effects.spec.ts',
  'e2e/testing/payments.spec.ts',
];
