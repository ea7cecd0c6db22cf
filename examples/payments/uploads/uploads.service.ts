import { createHash } from 'node:crypto';
import { BadRequestException, Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { Upload } from './upload.entity.js';

export interface UploadedContent {
  filename: string;
  content: Buffer;
}

@Injectable()
export class UploadsService {
  constructor(@InjectRepository(Upload) private readonly uploads: Repository<Upload>) {}

  async store(file: UploadedContent | undefined) {
    if (!file) throw new BadRequestException('The form has no file in its field "file"');
    const { filename, content } = file;
    const sha256 = createHash('sha256').update(content).digest('hex');
    const upload = await this.uploads.save({ filename, bytes: content.length, sha256 });
    return { upload_id: upload.id, filename, bytes: content.length, sha256, created_at: upload.createdAt };
  }
}
