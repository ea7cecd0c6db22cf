import { copyFile, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  Inject,
  Injectable,
  type NestInterceptor,
  Post,
  Req,
  type Type,
  UploadedFile,
  UploadedFiles,
  UseInterceptors,
} from '@nestjs/common';
import * as onExpress from '@nestjs/platform-express';
import type { Observable } from 'rxjs';
import { deferred } from '../../../src/util/deferred.js';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import type { Adapter } from '../../support/test-app.js';
import { FASTIFY_UPLOADS } from '../../support/versions.js';
import { RemoveUploadsInterceptor } from './remove-uploads.interceptor.js';

interface Upload {
  path: string;
  originalname: string;
}

/** Where uploads wait, and where they are kept. */
export class Folders {
  waiting = '';
  kept = '';
  /** Once for each handler that waits until it is told to go on. */
  readonly begun = deferred();
  readonly goOn = deferred();

  async make(): Promise<void> {
    this.waiting = await mkdtemp(join(tmpdir(), 'waiting-'));
    this.kept = await mkdtemp(join(tmpdir(), 'kept-'));
  }

  async keep({ path }: { path: string }, name: string): Promise<void> {
    await copyFile(path, join(this.kept, name)); // a retry writes the same file
  }

  async contents(): Promise<{ waiting: number; kept: string[] }> {
    const names = await readdir(this.kept);
    return {
      waiting: (await readdir(this.waiting)).length,
      kept: await Promise.all(names.map((name) => readFile(join(this.kept, name), 'utf8'))),
    };
  }

  async remove(): Promise<void> {
    await Promise.all([this.waiting, this.kept].map((folder) => rm(folder, { recursive: true })));
  }
}

/** @param folders made before the classes are, which name the folder */
export function uploadsOn(adapter: Adapter, { waiting: dest }: Folders): Type {
  const { FileInterceptor, FilesInterceptor, FileFieldsInterceptor } =
    adapter === 'express' ? onExpress : FASTIFY_UPLOADS!;

  @Controller()
  class Uploads {
    constructor(@Inject(Folders) private readonly folders: Folders) {}

    @Post('file')
    @Idempotent()
    @UseInterceptors(RemoveUploadsInterceptor, FileInterceptor('file', { dest }))
    async file(
      @UploadedFile() file: Upload,
      @IdempotencyContext() { attempt, key, downstreamKey }: IdempotencyContext,
    ) {
      await this.folders.keep(file, downstreamKey('file'));
      if (key === 'fails') throw new Error(`attempt ${attempt}`);
      return { name: file.originalname };
    }

    @Post('lease')
    @Idempotent({ mode: 'lease' })
    @UseInterceptors(RemoveUploadsInterceptor, FilesInterceptor('file', 2, { dest }))
    lease(@UploadedFiles() files: Upload[], @IdempotencyContext() { step, downstreamKey }: IdempotencyContext) {
      return step('keep', () => this.folders.keep(files[0]!, downstreamKey('file')));
    }

    @Post('fields')
    @Idempotent()
    @UseInterceptors(RemoveUploadsInterceptor, FileFieldsInterceptor([{ name: 'file' }], { dest }))
    async fields(@UploadedFiles() files: { file: Upload[] }, @IdempotencyContext() context: IdempotencyContext) {
      await this.folders.keep(files.file[0]!, context.downstreamKey('file'));
    }

    @Post('waits')
    @Idempotent()
    @UseInterceptors(RemoveUploadsInterceptor, FileInterceptor('file', { dest }))
    async waits(@UploadedFile() file: Upload, @IdempotencyContext() { downstreamKey }: IdempotencyContext) {
      this.folders.begun.resolve();
      await this.folders.goOn.promise;
      await this.folders.keep(file, downstreamKey('file'));
    }
  }
  return Uploads;
}

interface FastifyRequest {
  saveRequestFiles(options: { tmpdir: string }): Promise<unknown>;
  savedRequestFiles?: { filepath: string }[];
}

/** The plugin deletes what it has saved by itself. */
@Injectable()
class SaveFilesInterceptor implements NestInterceptor {
  constructor(@Inject(Folders) private readonly folders: Folders) {}

  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    await request.saveRequestFiles({ tmpdir: this.folders.waiting });
    return next.handle();
  }
}

@Controller()
export class PluginUploads {
  constructor(@Inject(Folders) private readonly folders: Folders) {}

  @Post('file')
  @Idempotent()
  @UseInterceptors(SaveFilesInterceptor)
  async file(
    @Req() { savedRequestFiles: saved }: FastifyRequest,
    @IdempotencyContext() { key, downstreamKey }: IdempotencyContext,
  ) {
    await this.folders.keep({ path: saved![0]!.filepath }, downstreamKey('file'));
    if (key === 'fails') throw new Error('after it was kept');
  }
}
