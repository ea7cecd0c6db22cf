import { BadRequestException, Body, Controller, type ExecutionContext, HttpCode, Post, Res } from '@nestjs/common';
import { deferred } from '../../../src/util/deferred.js';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';

export const SECRET = 'hunter2';

/** What a handler waits for. */
export const gate = { inside: 0, opened: deferred() };

export const calls: string[] = [];

/** Which callers may see what was recorded. */
export const allowed = { replay: true };

/** Express' response and Fastify's reply. */
type HeaderSetter = { header(name: string, value: string): unknown };

const callerOf = (context: ExecutionContext): string =>
  context.switchToHttp().getRequest<{ headers: Record<string, string> }>().headers['x-caller'] ?? '';

@Controller()
@Idempotent({ scope: callerOf })
export class SafetyController {
  @Post('pay')
  pay(@Res({ passthrough: true }) response: HeaderSetter): object {
    response.header('X-Reference', SECRET);
    calls.push('pay');
    return { card: SECRET };
  }

  @Post('pin')
  @HttpCode(200)
  pin(@Body() _body: { pin: string }): object {
    return { ok: true };
  }

  @Post('unstored')
  @Idempotent({ store: false })
  unstored(): object {
    calls.push('unstored');
    return { card: SECRET };
  }

  @Post('redacted')
  @Idempotent({
    redact: ({ headers, body }) => ({
      headers: headers.filter(([name]) => name.toLowerCase() !== 'x-reference').map(([name, value]) => [name, value]),
      body: body.toString().replaceAll(SECRET, '***'),
    }),
  })
  redacted(@Res({ passthrough: true }) response: HeaderSetter): object {
    response.header('X-Reference', SECRET);
    return { card: SECRET };
  }

  @Post('unredactable')
  @Idempotent({
    redact: () => {
      throw new BadRequestException('of the hook');
    },
  })
  unredactable(): object {
    calls.push('unredactable');
    return {};
  }

  @Post('guarded')
  @Idempotent({ authorizeReplay: (_context, { status, scope }) => allowed.replay && status === 201 && scope === 'ada' })
  guarded(): object {
    return { card: SECRET };
  }

  @Post('slow')
  @Idempotent({ maxInFlight: 2 })
  async slow(): Promise<object> {
    gate.inside++;
    await gate.opened.promise;
    return {};
  }

  @Post('steps')
  @Idempotent({ mode: 'lease', leaseMs: 6_000 })
  async steps(@IdempotencyContext() { step, transaction, attempt }: IdempotencyContext): Promise<object> {
    const charged = await step('charge', () => {
      calls.push('charge');
      return { card: SECRET };
    });
    const booked = await transaction('book', () => {
      calls.push('book');
      return { card: SECRET };
    });
    if (attempt === 1) {
      throw new Error('failed as asked');
    }
    return { charged, booked };
  }
}
