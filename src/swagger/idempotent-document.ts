import type { INestApplication, Type } from '@nestjs/common';
import { MetadataScanner, ModulesContainer } from '@nestjs/core';
import { ApiExtension, type OpenAPIObject, type SwaggerDocumentOptions, SwaggerModule } from '@nestjs/swagger';
import { IdempotencyRuntime } from '../idempotency.runtime.js';
import { type Handler, isIdempotent, methodsOf } from '../idempotent-handlers.js';
import { completeOperation, EXTENSION, type OpenApiOperation, retentionOf } from './operation.js';

/**
 * `SwaggerModule.createDocument()`, in whose document each `@Idempotent()` route tells of its key: the header with its
 * form, what is answered where there is none, or where it was used, the header that marks a replay, and for how long a key
 * is kept, which a server must publish (draft-ietf-httpapi-idempotency-key-header-07, section 2.3).
 */
export function createIdempotentDocument(
  app: INestApplication,
  config: Omit<OpenAPIObject, 'paths'>,
  options?: SwaggerDocumentOptions,
): OpenAPIObject {
  mark(app);
  const document = SwaggerModule.createDocument(app, config, options);
  for (const path of Object.values(document.paths)) {
    for (const operation of Object.values(path) as OpenApiOperation[]) {
      completeOperation(operation, app.get(IdempotencyRuntime).settings.problemBaseUrl);
    }
  }
  return document;
}

/** So that an operation of the document tells by itself which route it is of. */
function mark(app: INestApplication): void {
  const { routes } = app.get(IdempotencyRuntime);
  for (const { controllers } of app.get(ModulesContainer).values()) {
    for (const { metatype } of controllers.values()) {
      for (const [name, handler] of methodsOf(new MetadataScanner(), metatype as Type)) {
        if (isIdempotent(metatype as Type, handler)) {
          markHandler(metatype as Type, name, handler, routes);
        }
      }
    }
  }
}

function markHandler(controller: Type, name: string, handler: Handler, routes: IdempotencyRuntime['routes']): void {
  const prototype = controller.prototype as object;
  const extension = retentionOf(routes.of(controller, handler));
  ApiExtension(EXTENSION, extension)(prototype, name, { value: handler });
}
