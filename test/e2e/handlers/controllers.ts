import { Body, Controller, Get, Injectable, Post } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { type Repository } from 'typeorm';
import { type IdempotencyMode, Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { contractAt, type Implementation, Run, RunEach, RunUnknown, UnknownRunner } from './running-decorators.js';

interface Body_ {
  label: string;
  fail?: boolean;
}

@Injectable()
class Work {
  constructor(@InjectRepository(Effect) readonly effects: Repository<Effect>) {}

  async do({ label, fail }: Body_): Promise<object> {
    await this.effects.save({ label });
    if (fail) {
      throw new Error('the work failed');
    }
    return { label };
  }
}

/** All the ways of one mode, by their paths below it. */
export function handlersOf(mode: IdempotencyMode) {
  const idempotent = () => Idempotent({ mode });
  const runs =
    (work: Work): (() => Implementation) =>
    () =>
    ({ body }) =>
      work.do(body);
  const contract = (work: Work): Record<string, Implementation> => ({
    create: ({ body }) => work.do(body),
    list: () => work.effects.find(),
  });

  @Controller(mode)
  class Returning {
    constructor(readonly work: Work) {}

    @idempotent()
    @Run('above')
    above() {
      return runs(this.work)();
    }

    @Run('below')
    @idempotent()
    below() {
      return runs(this.work)();
    }

    @idempotent()
    @RunEach(contractAt('each-above'), true)
    eachAbove() {
      return contract(this.work);
    }

    @RunEach(contractAt('each-below'), true)
    @idempotent()
    eachBelow() {
      return contract(this.work);
    }

    @idempotent()
    @RunEach(contractAt('each-bare'), false)
    eachBare() {
      return contract(this.work);
    }

    @RunUnknown('unknown-below')
    @idempotent()
    unknownBelow() {
      return runs(this.work)();
    }

    @idempotent()
    @RunUnknown('unknown-above')
    unknownAbove() {
      return runs(this.work)();
    }
  }

  @Controller(`${mode}/class`)
  @idempotent()
  class ReturningClass {
    constructor(readonly work: Work) {}

    @Run('one')
    one() {
      return runs(this.work)();
    }

    @RunEach(contractAt('each'), true)
    each() {
      return contract(this.work);
    }
  }

  /** In essence what `@Crud()` does: handlers that stand on the class once all below it has run. */
  const Crud: ClassDecorator = ({ prototype }) => {
    const made = {
      createOne(this: { work: Work }, body: Body_) {
        return this.work.do(body);
      },
    };
    Object.assign(prototype as object, made);
    Post('crud')(prototype as object, 'createOne', Object.getOwnPropertyDescriptor(prototype, 'createOne')!);
    Body()(prototype as object, 'createOne', 0);
  };

  @Injectable()
  abstract class Plain {
    constructor(readonly work: Work) {}

    @Post('inherited')
    inherited(@Body() body: Body_) {
      return this.work.do(body);
    }

    @Get('inherited')
    get() {
      return { safe: true };
    }
  }

  @idempotent()
  abstract class Base extends Plain {
    @Post('again')
    again(@Body() body: Body_) {
      return this.work.do(body);
    }
  }

  @Crud
  @Controller(`${mode}/heir`)
  class Heir extends Base {
    @Post('added')
    added(@Body() body: Body_) {
      return this.work.do(body);
    }

    @Post('again')
    override again(@Body() body: Body_) {
      return this.work.do(body);
    }
  }

  @Controller(`${mode}/sister`)
  class Sister extends Plain {}

  return [Returning, ReturningClass, Heir, Sister];
}

export const PROVIDERS = [Work, UnknownRunner];
