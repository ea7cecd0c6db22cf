import type { MigrationInterface, QueryRunner } from 'typeorm';

export class CreateVerificationAndPayouts1763800000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table verification_sessions (
        id uuid primary key default gen_random_uuid(),
        user_id text not null,
        workflow_id text not null,
        provider_session_id text unique,
        url text,
        status text not null,
        history text[] not null,
        created_at timestamptz not null default now()
      )`);
    await runner.query(`
      create table payouts (
        id uuid primary key default gen_random_uuid(),
        amount integer not null check (amount > 0),
        currency text not null check (currency ~ '^[A-Z]{3}$'),
        destination text not null,
        status text not null,
        created_at timestamptz not null default now()
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table payouts, verification_sessions');
  }
}
