import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { DocumentBuilder, type OpenAPIObject } from '@nestjs/swagger';
import { TerminusModule } from '@nestjs/terminus';
import { Validator } from '@seriousme/openapi-schema-validator';
import { createIdempotentDocument } from '../../../src/swagger/index.js';
import { IdempotencyHealthModule } from '../../../src/terminus/index.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { IntegrationsController } from './integrations.controller.js';

describe.each(ADAPTERS)('the document of @nestjs/swagger on %s', (adapter) => {
  let test: TestApp;
  let document: OpenAPIObject;

  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      instances: 1,
      controllers: [IntegrationsController],
      imports: [IdempotencyHealthModule, TerminusModule],
    });
    const config = new DocumentBuilder().setTitle('Payments').setVersion('1').build();
    createIdempotentDocument(test.app, config); // a second time it must say the same
    document = JSON.parse(JSON.stringify(createIdempotentDocument(test.app, config))) as OpenAPIObject;
  });

  afterAll(() => test.close());

  it('is valid OpenAPI', async () => {
    const { errors } = await new Validator().validate(JSON.stringify(document, undefined, 2)); // of one line it would be a file
    expect(errors).toBeUndefined();
  });

  it('tells of the key, its answers and its retention', () => {
    expect(document.paths['/payments']!.post).toMatchSnapshot();
  });

  it('asks for no header where the key comes from elsewhere, or is not required', () => {
    expect(document.paths['/webhooks']!.post!.parameters).toEqual([]);
    expect(document.paths['/transfers']!.post!.parameters).toMatchObject([
      { name: 'Idempotency-Key', required: false },
    ]);
  });

  it('says nothing of other routes', () => {
    expect(document.paths['/plain']!.get).toEqual({
      operationId: 'IntegrationsController_plain',
      parameters: [],
      responses: { '200': expect.anything() },
      tags: ['Integrations'],
    });
  });
});
