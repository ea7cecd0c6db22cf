import { ClassSerializerInterceptor, Controller, Param, Post, Req, UseInterceptors } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../../../src/index.js';
import { Effect } from '../../../support/effect.entity.js';
import {
  Admin,
  AllHidden,
  ForAGroup,
  Formatted,
  Growing,
  HIDDEN,
  Holder,
  Masked,
  MaskedForAGroup,
  MaskedHolder,
  Order,
  Profile,
  SinceAVersion,
  TypedHolder,
  User,
} from './classes.js';

const userOf = (type = User): User => Object.assign(new type(), { name: 'Ada', password: HIDDEN });

/** What hides something, by its name in the path. */
export const HIDING: Record<string, () => unknown> = {
  itself: () => userOf(),
  inherited: () => userOf(Admin),
  'in a list': () => [{ plain: true }, userOf()],
  'in a property': () => ({ token: 'of nobody', of: { user: userOf() } }),
  'in an instance that hides nothing': () => new Holder(),
  'by its class': () => new AllHidden(),
  'from all but a group': () => new ForAGroup(),
  'from a version': () => new SinceAVersion(),
  'by a transformation': () => new Masked(),
  'by a transformation for a group': () => new MaskedForAGroup(),
  'whatever its value': () => Object.assign(new User(), { name: 'Ada', password: null }),
};

const AS: Record<string, [type: new () => object, make: () => unknown]> = {
  formatted: [Formatted, () => new Formatted()],
  list: [Formatted, () => [new Formatted(), new Formatted()]],
  nested: [TypedHolder, () => new TypedHolder()],
  nothing: [Formatted, () => null],
  growing: [Growing, () => new Growing()],
  untyped: [Holder, () => new Holder()],
  masked: [MaskedHolder, () => new MaskedHolder()],
};

const Lease = (): MethodDecorator => Idempotent({ mode: 'lease' });

function failOnce({ attempt }: IdempotencyContext): void {
  if (attempt === 1) throw new Error('interrupted');
}

@Controller()
@UseInterceptors(ClassSerializerInterceptor)
export class ClassResultsController {
  /** As the same is answered where the handler is not made of steps. */
  @Post('in-a-transaction/:what')
  @Idempotent()
  inTransaction(@Param('what') what: string) {
    return (HIDING[what] ?? AS[what]![1])();
  }

  @Post('transaction/:what')
  @Lease()
  transaction(@Param('what') what: string, @IdempotencyContext() ctx: IdempotencyContext) {
    return ctx.transaction('create', async (manager) => {
      await manager.insert(Effect, { label: what });
      return HIDING[what]!();
    });
  }

  @Post('step/:what')
  @Lease()
  step(@Param('what') what: string, @IdempotencyContext() ctx: IdempotencyContext) {
    return ctx.step('create', () => HIDING[what]!());
  }

  @Post('saved')
  @Lease()
  async saved(@IdempotencyContext() ctx: IdempotencyContext) {
    const user = await ctx.transaction('create', { as: User }, (manager: EntityManager) => manager.save(userOf()));
    failOnce(ctx);
    return user instanceof User ? user : 'plain data';
  }

  @Post('as/:what')
  @Lease()
  async as(@Param('what') what: string, @IdempotencyContext() ctx: IdempotencyContext) {
    const [as, make] = AS[what]!;
    const result = await ctx.transaction(
      'create',
      async (manager) => {
        await manager.insert(Effect, { label: what });
        return make();
      },
      { as },
    );
    failOnce(ctx);
    return result;
  }

  @Post('order')
  @Lease()
  async order(@IdempotencyContext() ctx: IdempotencyContext) {
    const stepped = await ctx.step('step', () => new Order());
    return { stepped, committed: await ctx.transaction('transaction', () => [new Order(), new Profile().city]) };
  }

  @Post('said-once')
  @Lease()
  async saidOnce(@Req() request: object, @IdempotencyContext() ctx: IdempotencyContext) {
    const step = `said once on ${'raw' in request ? 'fastify' : 'express'}`;
    await ctx.step(step, { key: 1 }, () => userOf());
    return ctx.step(step, { key: 2 }, () => userOf());
  }

  @Post('as-of-a-step')
  @Lease()
  asOfStep(@IdempotencyContext() ctx: IdempotencyContext) {
    return ctx.step('create', { as: User }, () => userOf());
  }
}
