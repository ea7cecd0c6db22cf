import { Reflector } from '@nestjs/core';
import type { IdempotentOptions } from './protocol/options.js';

/** Options given on a method or class. A bare `@Idempotent()` is an empty object, no decorator is undefined. */
export const IdempotentMetadata = Reflector.createDecorator<IdempotentOptions>();
