import { Injectable, NotFoundException } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { Customer } from './customer.entity.js';
import type { CreateCustomerDto, UpdateCustomerDto } from './customers.dto.js';

@Injectable()
export class CustomersService {
  constructor(@InjectRepository(Customer) private readonly customers: Repository<Customer>) {}

  create({ name, email }: CreateCustomerDto): Promise<Customer> {
    return this.customers.save({ name, email });
  }

  async update(id: string, { name, email }: UpdateCustomerDto): Promise<Customer> {
    return this.customers.save(this.customers.merge(await this.get(id), { name, email }));
  }

  async get(id: string): Promise<Customer> {
    const customer = await this.customers.findOneBy({ id });
    if (!customer) throw new NotFoundException(`There is no customer ${id}`);
    return customer;
  }
}
