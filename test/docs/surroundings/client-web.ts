export * from './common.js';
export { idempotent, IdempotentRequestError, operation } from '../../../src/client/index.js';

export declare const cart: { id: string };
export declare const localStorage: {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
  removeItem(name: string): void;
};
export declare function ask(question: string): Promise<boolean>;
export declare function explain(response: Response): Promise<string>;
export declare function show(text: string): void;
