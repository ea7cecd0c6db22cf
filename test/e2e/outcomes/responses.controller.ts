import { Body, ConflictException, Controller, Post, Res, UseInterceptors } from '@nestjs/common';
import { mergeMap, NEVER, of } from 'rxjs';
import { Idempotent } from '../../../src/index.js';
import { type AnyResponse, type Labelled, Ledger, note, outer, rawOf, stage } from './stage.js';

@Controller()
export class Responses {
  constructor(private readonly ledger: Ledger) {}

  @Post('res-then-throws')
  @Idempotent()
  async resThenThrows(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.status(201).send({ paid: true });
    await this.ledger.write(label);
    if (stage.broken) {
      throw new ConflictException('after the answer');
    }
  }

  @Post('never-answers')
  @Idempotent({ timeoutMs: 200 })
  async neverAnswers(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.ledger.write(label);
    if (stage.broken) {
      rawOf(response).write('never the end');
    } else {
      response.status(201).send({ label });
    }
  }

  @Post('outer-never-completes')
  @Idempotent({ timeoutMs: 200 })
  @UseInterceptors(outer((handled) => handled.pipe(mergeMap((value) => (stage.broken ? NEVER : of(value))))))
  outerNever(@Body() { label }: Labelled) {
    return this.ledger.write(label);
  }

  @Post('ends-twice')
  @Idempotent()
  async endsTwice(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    rawOf(response).end('once');
    await this.ledger.write(label);
    rawOf(response).end('twice');
    rawOf(response).write('after the end', () => note(label, 'called back'));
  }

  @Post('writes-with-callbacks')
  @Idempotent()
  async writesWithCallbacks(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    const raw = rawOf(response);
    raw.writeHead(202, 'Taken', ['Content-Type', 'text/plain', 'X-List', 'one']);
    await new Promise((resolve) => void raw.write('a', resolve));
    await new Promise((resolve) => void raw.write('6263', 'hex', resolve));
    await this.ledger.write(label);
    raw.end(Buffer.from('d'), () => note(label, 'ended'));
  }

  @Post('huge-head')
  @Idempotent()
  huge(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    response.header('X-Huge', 'h'.repeat(50_000)).header('x-oDD-cAsE', 'caf\u00e9');
    return this.ledger.write(label);
  }
}
