export * from './common.js';
export { HttpModule } from '@nestjs/axios';
export { default as axios } from 'axios';
export { default as createClient } from 'openapi-fetch';
export * as undici from 'undici';
export { idempotent, IdempotentRequestError, operation } from '../../../src/client/index.js';

export interface Payment {
  amount: number;
  currency: string;
  destination: string;
}
/** What openapi-typescript has made of a document. */
export interface paths {
  '/payments': { post: { responses: { 201: { content: { 'application/json': { id: string } } } } } };
}
export declare const baseUrl: string;
export declare const cart: { id: string };
export declare const invoice: { id: number };
export declare const payment: Payment;
export declare const localStorage: {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
  removeItem(name: string): void;
};
export declare function ask(question: string): Promise<boolean>;
export declare function explain(response: Response): Promise<string>;
export declare function show(text: string): void;
