import type { NestInterceptor } from '@nestjs/common';

export * from './common.js';

export declare const dto: { amount: number };
export declare const item: string;
export declare const order: { id: string };
export declare const TransactionInterceptor: new () => NestInterceptor;

/** Of packages that this project does not depend on, in no more than the forms that are shown. */
export declare function drizzle(options: { client: unknown }): unknown;
export declare function knex(options: { client: 'pg' }): {
  transaction(run: () => Promise<void>, options: { connection: unknown }): Promise<void>;
};
export declare const Kysely: new (options: { dialect: object }) => object;
export declare const PostgresDialect: new (options: {
  pool: { connect(): Promise<unknown>; end(): Promise<void> };
}) => object;
export declare function work(): Promise<void>;
