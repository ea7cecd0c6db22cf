import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  Controller,
  Delete,
  type ExecutionContext,
  type NestInterceptor,
  Post,
  Put,
  type Type,
  UseInterceptors,
} from '@nestjs/common';
import { AnyFilesInterceptor, FileFieldsInterceptor, FileInterceptor } from '@nestjs/platform-express';
import { type Observable, of } from 'rxjs';
import { FASTIFY_UPLOADS } from '../../support/versions.js';
import { fingerprintRequest } from '../../../src/http/fingerprint.js';

export const uploadFolder = await mkdtemp(join(tmpdir(), 'fingerprint-'));

/** Stands where `@Idempotent()` puts its interceptor, and answers with the fingerprint or the error. */
class AnswerWithFingerprint implements NestInterceptor {
  async intercept(context: ExecutionContext): Promise<Observable<string>> {
    const fingerprint = fingerprintRequest(context.switchToHttp().getRequest());
    return of(await fingerprint.then((bytes) => bytes.toString('hex'), String));
  }
}

@Controller('v1/payments/:id')
@UseInterceptors(AnswerWithFingerprint)
export class PaymentsController {
  @Post()
  pay(): void {}

  @Put()
  replace(): void {}

  @Delete()
  cancel(): void {}
}

/** Decorators apply from the bottom up: but for the last route, the upload is read first. */
@Controller('uploads')
export class ExpressUploadsController {
  @Post('memory')
  @UseInterceptors(AnswerWithFingerprint)
  @UseInterceptors(AnyFilesInterceptor())
  memory(): void {}

  @Post('disk')
  @UseInterceptors(AnswerWithFingerprint)
  @UseInterceptors(AnyFilesInterceptor({ dest: uploadFolder }))
  disk(): void {}

  @Post('by-field')
  @UseInterceptors(AnswerWithFingerprint)
  @UseInterceptors(FileFieldsInterceptor([{ name: 'scan' }, { name: 'invoice' }]))
  byField(): void {}

  @Post('single')
  @UseInterceptors(AnswerWithFingerprint)
  @UseInterceptors(FileInterceptor('scan'))
  single(): void {}

  @Post('wrong-order')
  @UseInterceptors(FileInterceptor('scan'))
  @UseInterceptors(AnswerWithFingerprint)
  wrongOrder(): void {}
}

/** @param onFastify NestJS' own interceptors, where it has some */
function fastifyUploads(onFastify: NonNullable<typeof FASTIFY_UPLOADS>): Type {
  @Controller('uploads')
  class FastifyUploadsController {
    @Post('memory')
    @UseInterceptors(AnswerWithFingerprint)
    @UseInterceptors(onFastify.AnyFilesInterceptor())
    memory(): void {}

    @Post('disk')
    @UseInterceptors(AnswerWithFingerprint)
    @UseInterceptors(onFastify.AnyFilesInterceptor({ dest: uploadFolder }))
    disk(): void {}

    @Post('by-field')
    @UseInterceptors(AnswerWithFingerprint)
    @UseInterceptors(onFastify.FileFieldsInterceptor([{ name: 'scan' }, { name: 'invoice' }]))
    byField(): void {}

    @Post('single')
    @UseInterceptors(AnswerWithFingerprint)
    @UseInterceptors(onFastify.FileInterceptor('scan'))
    single(): void {}

    @Post('wrong-order')
    @UseInterceptors(onFastify.FileInterceptor('scan'))
    @UseInterceptors(AnswerWithFingerprint)
    wrongOrder(): void {}

    @Post('streamed')
    @UseInterceptors(AnswerWithFingerprint)
    @UseInterceptors(onFastify.FileStreamInterceptor('scan'))
    streamed(): void {}
  }
  return FastifyUploadsController;
}

export const FastifyUploadsController = FASTIFY_UPLOADS && fastifyUploads(FASTIFY_UPLOADS);

/** The plugin by itself: it has read the upload before any interceptor runs, or leaves it to the handler. */
@Controller('uploads')
@UseInterceptors(AnswerWithFingerprint)
export class PluginUploadsController {
  @Post(':kind')
  upload(): void {}
}
