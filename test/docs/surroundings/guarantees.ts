import type { EventEmitter } from 'node:events';

export * from './common.js';

export declare const DataLoader: new (load: (ids: readonly unknown[]) => Promise<object[]>) => object;
export declare const emitter: EventEmitter;
export declare const queue: { take(callback: () => void): void };
export declare const url: string;
export declare function connect(to: string): object;
export declare function load(ids: readonly unknown[]): Promise<object[]>;
export declare function work(): void;
