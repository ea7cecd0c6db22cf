export * from './common.js';

export declare class CreateShop1763000000000 {
  up(): Promise<void>;
  down(): Promise<void>;
}
