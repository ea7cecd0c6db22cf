import { Body, Controller, Get, Param, ParseUUIDPipe, Patch, Post, Res } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import type { HeaderWriter } from '../header-writer.js';
import type { Customer } from './customer.entity.js';
import { CreateCustomerDto, UpdateCustomerDto } from './customers.dto.js';
import { CustomersService } from './customers.service.js';

@Controller('customers')
export class CustomersController {
  constructor(private readonly customers: CustomersService) {}

  @Post()
  @Idempotent()
  async create(@Body() body: CreateCustomerDto, @Res({ passthrough: true }) response: HeaderWriter) {
    const customer = await this.customers.create(body);
    response.header('Location', `/customers/${customer.id}`);
    return toResponse(customer);
  }

  @Patch(':id')
  @Idempotent()
  async update(@Param('id', ParseUUIDPipe) id: string, @Body() body: UpdateCustomerDto) {
    return toResponse(await this.customers.update(id, body));
  }

  @Get(':id')
  async get(@Param('id', ParseUUIDPipe) id: string) {
    return toResponse(await this.customers.get(id));
  }
}

function toResponse({ id, name, email, createdAt }: Customer) {
  return { customer_id: id, name, email, created_at: createdAt };
}
