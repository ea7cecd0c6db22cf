import type { Repository } from 'typeorm';

export * from './common.js';

/** That of typeorm-transactional. */
export declare function Transactional(): MethodDecorator;
export declare class Order {
  id: string;
}
export declare class Audit {
  attempted(order: Order): Promise<void>;
}
export declare class Mailer {
  receipt(order: Order): Promise<void>;
}
export declare class Orders extends Repository<Order> {}
