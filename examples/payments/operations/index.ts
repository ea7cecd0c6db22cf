export { serveOpenApi } from './openapi.js';
export { OperationsModule } from './operations.module.js';
