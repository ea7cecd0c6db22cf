import { Column, CreateDateColumn, Entity, PrimaryColumn } from 'typeorm';

@Entity('refunds')
export class Refund {
  @PrimaryColumn('uuid', { default: () => 'gen_random_uuid()' })
  id!: string;

  @Column('uuid', { name: 'payment_id' })
  paymentId!: string;

  @Column('integer')
  amount!: number;

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;
}
