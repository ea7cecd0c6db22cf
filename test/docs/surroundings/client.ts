export * from './common.js';
export { idempotent, IdempotentRequestError, operation } from '../../../src/client/index.js';

export interface Payment {
  amount: number;
  currency: string;
  destination: string;
}
export declare const cart: { id: string };
export declare const payment: Payment;
export declare const localStorage: {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
  removeItem(name: string): void;
};
