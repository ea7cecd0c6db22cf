export * from './common.js';
export { HttpModule } from '@nestjs/axios';
export { default as axios } from 'axios';
export { default as createClient } from 'openapi-fetch';
export * as undici from 'undici';
export { idempotent } from '../../../src/client/index.js';

/** What openapi-typescript has made of a document. */
export interface paths {
  '/payments': { post: { responses: { 201: { content: { 'application/json': { id: string } } } } } };
}
export declare const baseUrl: string;
export declare const invoice: { id: number };
export { payment } from './client.js';
