import type { MigrationInterface, QueryRunner } from 'typeorm';

export class CreatePaymentsTables1763700000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table payments (
        id uuid primary key default gen_random_uuid(),
        amount integer not null check (amount > 0),
        currency text not null check (currency ~ '^[A-Z]{3}$'),
        destination text not null,
        status text not null,
        created_at timestamptz not null default now()
      )`);
    await runner.query(`
      create table refunds (
        id uuid primary key default gen_random_uuid(),
        payment_id uuid not null references payments,
        amount integer not null check (amount > 0),
        created_at timestamptz not null default now()
      )`);
    await runner.query(`create index refunds_payment_id_idx on refunds (payment_id)`);
    await runner.query(`
      create table ledger_entries (
        id bigint generated always as identity primary key,
        payment_id uuid not null references payments,
        amount integer not null,
        created_at timestamptz not null default now()
      )`);
    for (const table of ['customers', 'users']) {
      await runner.query(`
        create table ${table} (
          id uuid primary key default gen_random_uuid(),
          name text not null,
          email text not null,
          created_at timestamptz not null default now()
        )`);
    }
    await runner.query(`
      create table uploads (
        id uuid primary key default gen_random_uuid(),
        filename text not null,
        bytes integer not null,
        sha256 text not null,
        created_at timestamptz not null default now()
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table uploads, users, customers, ledger_entries, refunds, payments');
  }
}
