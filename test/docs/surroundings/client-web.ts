export * from './common.js';
export { idempotent, IdempotentRequestError, operation } from '../../../src/client/index.js';
export { cart, localStorage } from './client.js';

export declare function ask(question: string): Promise<boolean>;
export declare function explain(response: Response): Promise<string>;
export declare function show(text: string): void;
