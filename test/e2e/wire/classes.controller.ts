import { Body, Controller, Get, Injectable, Post } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import { type AnyRequest, Work } from './house.js';

@Injectable()
class Base {
  constructor(readonly work: Work) {}

  @Post('inherited')
  inherited(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('overridden')
  overridden(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }
}

/** The same handlers as its sibling, none of them idempotent. */
@Controller('plain')
export class Plain extends Base {}

@Idempotent({ header: 'X-Class-Key', ttlMs: 7 * 86_400_000 })
@Controller('whole')
export class Whole extends Base {
  @Get('read')
  read() {
    return { read: true };
  }

  @Post('own')
  own(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('method')
  @Idempotent({ header: 'X-Method-Key' })
  method(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('overridden')
  override overridden(@Body() body: AnyRequest['body']) {
    return super.overridden({ label: body.label });
  }
}

@Controller('module')
export class OfModule {
  constructor(private readonly work: Work) {}

  @Post('own')
  @Idempotent()
  own(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }
}
