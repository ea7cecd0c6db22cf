import { Readable } from 'node:stream';
import { Body, Controller, Post, Res, StreamableFile } from '@nestjs/common';
import { from, map } from 'rxjs';
import { Idempotent } from '../../../src/index.js';
import { type AnyResponse, gates, type Labelled, Ledger, note, rawOf } from './stage.js';

@Controller()
export class Slow {
  constructor(private readonly ledger: Ledger) {}

  @Post('slow-json')
  @Idempotent()
  async slowJson(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await gates.pass(label);
    return { label, text: 'of the first run' };
  }

  @Post('slow-observable')
  @Idempotent()
  async slowObservable(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    return from(gates.pass(label)).pipe(map(() => ({ label, text: 'of the first run' })));
  }

  @Post('slow-stream')
  @Idempotent()
  async slowStream(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    return new StreamableFile(
      Readable.from(
        (async function* () {
          yield Buffer.from('of the ');
          await gates.pass(label);
          yield Buffer.from('first run');
        })(),
      ),
    );
  }

  @Post('slow-res')
  @Idempotent()
  async slowRes(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.ledger.write(label);
    rawOf(response).write('of the ');
    await gates.pass(label);
    rawOf(response).end('first run');
  }

  @Post('large-stream')
  @Idempotent()
  async largeStream(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    const pieces = (async function* () {
      try {
        for (let piece = 0; piece < 64; piece++) {
          if (piece === 24) {
            await gates.pass(label); // beyond 1 MiB
          }
          yield Buffer.alloc(64 * 1024, piece);
        }
      } finally {
        note(label, 'stream closed');
      }
    })();
    return new StreamableFile(Readable.from(pieces));
  }
}
