export * from './common.js';
export { Get } from '@nestjs/common';
export { HealthCheck, HealthCheckService, TerminusModule } from '@nestjs/terminus';

export declare const pager: { notify(text: string): void };
