import { Column, CreateDateColumn, Entity, PrimaryColumn } from 'typeorm';

@Entity('payouts')
export class Payout {
  @PrimaryColumn('uuid', { default: () => 'gen_random_uuid()' })
  id!: string;

  /** In the currency's minor unit: cents. */
  @Column('integer')
  amount!: number;

  @Column('text')
  currency!: string;

  @Column('text')
  destination!: string;

  @Column('text')
  status!: 'PENDING' | 'PAID';

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;
}
