export * from './common.js';
export { APP_GUARD } from '@nestjs/core';
export { ThrottlerModule } from '@nestjs/throttler';
