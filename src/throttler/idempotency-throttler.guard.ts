import { type ExecutionContext, ForbiddenException, Inject, Injectable } from '@nestjs/common';
import { ThrottlerGuard } from '@nestjs/throttler';
import { IdempotencyRuntime } from '../idempotency.runtime.js';
import { expectsReplay } from '../replay-forecast.js';

/**
 * The `ThrottlerGuard` of @nestjs/throttler that does not count replays: a client that retries, as it is told to, does not
 * use up its limit. Everything else counts: a missing key, a new one, one that is in flight or was used for another request.
 *
 * It looks a key up before the request is counted. Of a replay that is the one question that is asked of the database; of
 * any other request with a key it is one more. Put it behind the guard that authenticates, where `request.user` is there.
 */
@Injectable()
export class IdempotencyThrottlerGuard extends ThrottlerGuard {
  /** @internal By a property, so that who extends this guard goes on with the constructor of the ThrottlerGuard. */
  @Inject(IdempotencyRuntime) private readonly runtime!: IdempotencyRuntime;

  /** Requests that were let pass as replays, and turned out to be none. */
  private readonly toBeCounted = new WeakSet<ExecutionContext>();

  protected override async shouldSkip(context: ExecutionContext): Promise<boolean> {
    if (await super.shouldSkip(context)) {
      return true;
    }
    return !this.toBeCounted.has(context) && expectsReplay(this.runtime, context, () => this.count(context));
  }

  /** @throws what the ThrottlerGuard refuses the request with */
  private async count(context: ExecutionContext): Promise<void> {
    this.toBeCounted.add(context);
    if (!(await this.canActivate(context))) {
      throw new ForbiddenException(); // as NestJS does
    }
  }
}
