export * from './common.js';
export { expect, it } from '@jest/globals';
export { default as request } from 'supertest';
