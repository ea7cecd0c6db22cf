import type { NestInterceptor } from '@nestjs/common';

export * from './common.js';

export declare const dto: { amount: number };
export declare const item: string;
export declare const order: { id: string };
export declare const TransactionInterceptor: new () => NestInterceptor;
