export * from './common.js';

/** That of @nestjs/config. */
export declare class ConfigService {
  getOrThrow(name: string): string;
}
