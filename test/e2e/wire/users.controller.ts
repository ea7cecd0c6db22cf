import { Body, Controller, Post, UseGuards } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import { type AnyRequest, Authentication, requestOf, Work } from './house.js';

@Controller('users')
@UseGuards(Authentication)
export class Users {
  constructor(private readonly work: Work) {}

  @Post('default')
  @Idempotent()
  byDefault(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('resolved')
  @Idempotent({ scope: async (context) => (requestOf(context).user as { tenant: string }).tenant })
  byTenant(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }
}
