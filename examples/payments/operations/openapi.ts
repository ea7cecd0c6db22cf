import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, SwaggerModule } from '@nestjs/swagger';
import { createIdempotentDocument } from '../../../src/swagger/index.js';

/** `GET /openapi.json`; the page that shows it would ask for a package more on Fastify. */
export function serveOpenApi(app: INestApplication): void {
  const config = new DocumentBuilder().setTitle('Payments').setVersion('1').build();
  const document = createIdempotentDocument(app, config);
  SwaggerModule.setup('openapi', app, document, { ui: false, raw: ['json'], jsonDocumentUrl: 'openapi.json' });
}
