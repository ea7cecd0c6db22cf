export * from './common.js';
export { default as Stripe } from 'stripe';

export declare class CreateSessionDto {
  userId: string;
}
export declare class Session {
  id: string;
  userId: string;
  providerId: string;
  status: string;
}
export declare class User {
  id: string;
}
export declare const intent: { amount: number; currency: string };
export declare const newUser: User;
export declare const order: { items: { id: string }[] };
export declare const orderId: string;
