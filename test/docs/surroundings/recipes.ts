/// <reference types="multer" />
export * from './common.js';
export { default as PgBoss } from 'pg-boss';

export declare class CreateInvoiceDto {
  amount: number;
}
export declare class CreatePayoutDto {
  amount: number;
}
export declare class ProviderEvent {
  id: string;
}
export declare class Tokens {
  verify(header: string | undefined): Promise<{ id: string } | undefined>;
}
