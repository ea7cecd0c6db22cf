/** Specs that change the library's tables by statements which Citus refuses, or are about a session in one PostgreSQL. */
export const KEEPS_TO_PLAIN_TABLES = ['table-kinds.spec.ts'];
