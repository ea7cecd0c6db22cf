import { Body, type CanActivate, Controller, type ExecutionContext, Post, UseGuards } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import { type IdempotencyMode, Idempotent, type IdempotentOptions } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';

/** Puts the header `X-User`, a JSON document, where NestJS' Passport guards put the user. */
export class UserGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const request = context.switchToHttp().getRequest<{ headers: Record<string, string>; user?: unknown }>();
    const user = request.headers['x-user'];
    if (user !== undefined) {
      request.user = JSON.parse(user);
    }
    return true;
  }
}

/** Knows its caller, and keeps it where nobody else looks. */
export class AccountGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const request = context.switchToHttp().getRequest<{ headers: Record<string, string>; account?: unknown }>();
    request.account = { id: request.headers['x-account'] };
    return true;
  }
}

export interface AccountRequest {
  account: { id: string };
}

/** Who a request is from does not matter to it, as to a ThrottlerGuard. */
export class GlobalGuard implements CanActivate {
  canActivate(): boolean {
    return true;
  }
}

/** Controllers of one mode, under a path that names it. */
export function whoseKeyControllers(mode: IdempotencyMode) {
  const idempotent = (options: IdempotentOptions = {}) => Idempotent({ mode, ...options });

  @Controller(mode)
  class WhoseKey {
    constructor(@InjectRepository(Effect) readonly effects: Repository<Effect>) {}

    @Post('user')
    @UseGuards(UserGuard)
    @idempotent()
    user(@Body() { label }: { label: string }) {
      return this.effects.save({ label });
    }

    @Post('account')
    @UseGuards(AccountGuard)
    @idempotent()
    account(@Body() { label }: { label: string }) {
      return this.effects.save({ label });
    }

    @Post('strict')
    @UseGuards(AccountGuard)
    @idempotent({ sharedScope: 'error' })
    strict(@Body() { label }: { label: string }) {
      return this.effects.save({ label });
    }

    @Post('meant')
    @UseGuards(AccountGuard)
    @idempotent({ scope: () => '', sharedScope: 'error' })
    meant(@Body() { label }: { label: string }) {
      return this.effects.save({ label });
    }

    @Post('own')
    @UseGuards(AccountGuard)
    @idempotent({ scope: (context) => context.switchToHttp().getRequest<AccountRequest>().account.id })
    own(@Body() { label }: { label: string }) {
      return this.effects.save({ label });
    }

    @Post('event')
    @idempotent({
      scope: () => 'provider',
      key: (context) => context.switchToHttp().getRequest<{ body: { id: string } }>().body.id,
      fingerprint: { omit: ['meta.sentAt', 'attempts.at'] },
    })
    event(@Body() { id }: { id: string }) {
      return this.effects.save({ label: id });
    }

    @Post('picked')
    @idempotent({ scope: () => 'picked', fingerprint: { pick: ['order.id', 'items.sku'] } })
    picked(@Body() { label }: { label: string }) {
      return this.effects.save({ label });
    }
  }
  Object.defineProperty(WhoseKey, 'name', { value: `WhoseKey_${mode}` });
  return WhoseKey;
}
