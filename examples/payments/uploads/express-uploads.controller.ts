/// <reference types="multer" />
import { Controller, Post, UploadedFile, UseInterceptors } from '@nestjs/common';
import { FileInterceptor } from '@nestjs/platform-express';
import { Idempotent } from '../../../src/index.js';
import { UploadsService } from './uploads.service.js';

@Controller('uploads')
export class ExpressUploadsController {
  constructor(private readonly uploads: UploadsService) {}

  /**
   * Decorators apply from the bottom up: below `@Idempotent()`, the FileInterceptor has read the upload (into memory,
   * multer's default) by the time its content is compared with that of the first request.
   */
  @Post()
  @Idempotent()
  @UseInterceptors(FileInterceptor('file'))
  store(@UploadedFile() file: Express.Multer.File | undefined) {
    return this.uploads.store(file && { filename: file.originalname, content: file.buffer });
  }
}
