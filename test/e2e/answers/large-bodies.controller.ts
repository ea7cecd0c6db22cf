import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { brotliCompressSync, constants, deflateSync, gzipSync } from 'node:zlib';
import { Body, Controller, Param, Post, Res, StreamableFile } from '@nestjs/common';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import type { DataSource, Repository } from 'typeorm';
import { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { rawOf } from './controller.js';

const MIB = 1024 * 1024;

/** Some hundred KiB each, of much more; members of a gzip follow one another (RFC 1952, 2.2). */
export const DECODED_BYTES: Record<string, number> = { gzip: 256 * MIB, deflate: 128 * MIB, br: 128 * MIB };

const ENCODERS: Record<string, (bytes: number) => Buffer> = {
  gzip: (bytes) => Buffer.concat(Array<Buffer>(bytes / (16 * MIB)).fill(gzipSync(Buffer.alloc(16 * MIB)))),
  deflate: (bytes) => deflateSync(Buffer.alloc(bytes)),
  br: (bytes) => brotliCompressSync(Buffer.alloc(bytes), { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } }),
};

interface Wanted {
  label: string;
  bytes: number;
}

/** Handlers whose answers are larger than what is held, or kept. */
@Controller()
export class LargeBodiesController {
  constructor(
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  /** Writes by itself, and waits for 'drain' wherever it is told to. */
  @Post('written')
  @Idempotent()
  async written(@Body() { label, bytes }: Wanted, @Res() response: ServerResponse & { hijack?(): void }) {
    await this.effects.insert({ label });
    response.hijack?.();
    const raw = rawOf(response as never);
    for (let left = bytes; left > 0; left -= MIB) {
      if (!raw.write(Buffer.alloc(Math.min(MIB, left), 'x'))) {
        await once(raw, 'drain');
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    raw.end();
  }

  @Post('returned')
  @Idempotent()
  async returned(@Body() { label, bytes }: Wanted) {
    await this.effects.insert({ label });
    return new StreamableFile(
      Readable.from(
        (function* () {
          for (let left = bytes; left > 0; left -= MIB) {
            yield Buffer.alloc(Math.min(MIB, left), 'x');
          }
        })(),
      ),
    );
  }

  @Post('encoded/:coding')
  @Idempotent()
  encoded(@Param('coding') coding: string, @Res({ passthrough: true }) response: never) {
    rawOf(response).setHeader('Content-Encoding', coding);
    return new StreamableFile(ENCODERS[coding]!(DECODED_BYTES[coding]!), { type: 'application/json' });
  }

  /** Of a body that decodes to 2 MiB, the end is missing. */
  @Post('encoded-in-part')
  @Idempotent()
  encodedInPart(@Res({ passthrough: true }) response: never) {
    rawOf(response).setHeader('Content-Encoding', 'gzip');
    return new StreamableFile(gzipSync(Buffer.alloc(2 * MIB)).subarray(0, -20));
  }

  /** Reads rows of the transaction, of which PostgreSQL closes the cursor at COMMIT. */
  @Post('cursor')
  @Idempotent()
  async cursor(@Body() { label, bytes }: Wanted) {
    await this.effects.insert({ label });
    const runner = this.dataSource.createQueryRunner();
    const rows = await runner.stream(`select repeat('x', 1000) as x from generate_series(1, ${bytes / 1000})`);
    return new StreamableFile(rows.map(({ x }: { x: string }) => Buffer.from(x)));
  }
}
