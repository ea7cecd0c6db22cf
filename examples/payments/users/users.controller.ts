import { Body, Controller, Get, NotFoundException, Param, ParseUUIDPipe, Post, Res } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { Idempotent } from '../../../src/index.js';
import type { HeaderWriter } from '../header-writer.js';
import { CreateUserDto } from './create-user.dto.js';
import { User } from './user.entity.js';

@Controller('users')
export class UsersController {
  constructor(@InjectRepository(User) private readonly users: Repository<User>) {}

  /** A body that fails validation (400) leaves the key unused: the corrected request may have it. */
  @Post()
  @Idempotent()
  async create(@Body() { name, email }: CreateUserDto, @Res({ passthrough: true }) response: HeaderWriter) {
    const user = await this.users.save({ name, email });
    response.header('Location', `/users/${user.id}`);
    return toResponse(user as User);
  }

  @Get(':id')
  async get(@Param('id', ParseUUIDPipe) id: string) {
    const user = await this.users.findOneBy({ id });
    if (!user) throw new NotFoundException(`There is no user ${id}`);
    return toResponse(user);
  }
}

function toResponse({ id, name, email, createdAt }: User) {
  return { user_id: id, name, email, created_at: createdAt };
}
