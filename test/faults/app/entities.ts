import { Column, Entity, PrimaryColumn } from 'typeorm';

/** What one execution of a handler did. The nonce is new for each execution: two of them for one key are a doubled effect. */
@Entity('effects')
export class Effect {
  @PrimaryColumn('uuid')
  nonce!: string;

  @Column('text')
  key!: string;

  @Column('int')
  amount!: number;
}

/** The second write of the same execution, by another service: both commit, or neither. */
@Entity('postings')
export class Posting {
  @PrimaryColumn('uuid')
  nonce!: string;

  @Column('text')
  account!: string;

  @Column('int')
  amount!: number;
}

/** What the transaction step of an operation in lease mode did: once for each operation. */
@Entity('bookings')
export class Booking {
  @PrimaryColumn('uuid')
  nonce!: string;

  @Column('text')
  key!: string;

  @Column('int')
  amount!: number;
}

/** A row that many requests update, so that SERIALIZABLE transactions have something to conflict about. */
@Entity('accounts')
export class Account {
  @PrimaryColumn('text')
  id!: string;

  @Column('int')
  balance!: number;
}
