import { describe, expect, it } from '@jest/globals';
import {
  type CanActivate,
  Controller,
  type INestApplication,
  Inject,
  Injectable,
  Post,
  Scope,
  type Type,
  UseGuards,
} from '@nestjs/common';
import { APP_GUARD, REQUEST } from '@nestjs/core';
import {
  IdempotencyModule,
  type IdempotencyModuleOptions,
  Idempotent,
  type IdempotentOptions,
} from '../../../src/index.js';
import { type AppOptions, boot, logs, Things, withADatabaseEach } from './house.js';

withADatabaseEach();

describe('the warning of a shared scope', () => {
  @Injectable()
  class Guard implements CanActivate {
    canActivate(): boolean {
      return true;
    }
  }

  @Injectable({ scope: Scope.REQUEST })
  class RequestGuard extends Guard {
    constructor(@Inject(REQUEST) readonly request: unknown) {
      super();
    }
  }

  const nothing = () => undefined;

  const controllerWith = ({
    onClass = nothing,
    onMethod = nothing,
    options,
  }: { onClass?: ClassDecorator; onMethod?: MethodDecorator; options?: IdempotentOptions } = {}) => {
    @Controller('scoped')
    @onClass
    class Scoped {
      @Post('first')
      @Idempotent(options)
      @onMethod
      first() {}

      @Post('second')
      @Idempotent(options)
      @onMethod
      second() {}

      @Post('plain')
      plain() {}
    }
    return Scoped;
  };

  const warnings = () => logs.filter((line) => line.includes('scope'));

  it('comes once at boot, with all the routes, where no guard and no option tells callers apart', async () => {
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [controllerWith(), Things] });
    expect(warnings()).toEqual([
      'No guard can tell who calls Scoped.first, Scoped.second, Things.create: all callers share one scope of idempotency keys. ' +
        "Set the option `scope`, or say that this is meant by scope: () => ''. Idempotency",
    ]);
    await test.post('/scoped/first', 'abc');
    expect(logs).toHaveLength(1);
  });

  it.each<[string, IdempotencyModuleOptions, Type, AppOptions]>([
    ['the module has a scope', { scope: () => '' }, controllerWith(), {}],
    ['the route has a scope', {}, controllerWith({ options: { scope: () => '' } }), {}],
    ['a guard is on the route', {}, controllerWith({ onMethod: UseGuards(Guard) }), {}],
    ['a guard is on the class', {}, controllerWith({ onClass: UseGuards(Guard) }), {}],
    [
      'useGlobalGuards() was called',
      {},
      controllerWith(),
      { configure: (app: INestApplication) => void app.useGlobalGuards(new Guard()) },
    ],
    ['there is an APP_GUARD', {}, controllerWith(), { providers: [{ provide: APP_GUARD, useClass: Guard }] }],
    [
      'there is an APP_GUARD for each request',
      {},
      controllerWith(),
      { providers: [{ provide: APP_GUARD, scope: Scope.REQUEST, useClass: RequestGuard }] },
    ],
  ])('does not come at boot when %s', async (_, options, controller, appOptions) => {
    await boot(IdempotencyModule.forRoot(options), { ...appOptions, controllers: [controller] });
    expect(logs).toEqual([]);
  });

  it('names only the routes it is about', async () => {
    await boot(IdempotencyModule.forRoot(), { controllers: [controllerWith({ onClass: UseGuards(Guard) }), Things] });
    expect(warnings()).toEqual([expect.stringContaining('who calls Things.create: all')]);
  });
});
