export { createIdempotentDocument } from './idempotent-document.js';
