export * from './common.js';

export declare const options: import('@nestjs/typeorm').TypeOrmModuleOptions;
