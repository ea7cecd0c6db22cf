import type { MultipartFile } from '@fastify/multipart';
import { Body, Controller, Post } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import { UploadsService } from './uploads.service.js';

@Controller('uploads')
export class FastifyUploadsController {
  constructor(private readonly uploads: UploadsService) {}

  /** @fastify/multipart, registered with `attachFieldsToBody: true`, has read the upload before any handler runs. */
  @Post()
  @Idempotent()
  async store(@Body('file') part: unknown) {
    return this.uploads.store(isFile(part) ? { filename: part.filename, content: await part.toBuffer() } : undefined);
  }
}

/** A client can as well send text under the name, or no form at all. */
function isFile(part: unknown): part is MultipartFile {
  return typeof part === 'object' && part !== null && 'toBuffer' in part;
}
