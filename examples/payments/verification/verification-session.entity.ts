import { Column, CreateDateColumn, Entity, PrimaryColumn } from 'typeorm';

/** CREATED: the provider may not know of it yet. PENDING: the provider waits for the user. The others are its verdict. */
export type VerificationStatus = 'CREATED' | 'PENDING' | 'APPROVED' | 'DECLINED';

@Entity('verification_sessions')
export class VerificationSession {
  @PrimaryColumn('uuid', { default: () => 'gen_random_uuid()' })
  id!: string;

  @Column('text', { name: 'user_id' })
  userId!: string;

  @Column('text', { name: 'workflow_id' })
  workflowId!: string;

  @Column('text', { name: 'provider_session_id', nullable: true })
  providerSessionId!: string | null;

  /** Where the user goes to be verified. */
  @Column('text', { nullable: true })
  url!: string | null;

  @Column('text')
  status!: VerificationStatus;

  /** Every status that it had, in order: what has happened twice shows here. */
  @Column('text', { array: true })
  history!: VerificationStatus[];

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;
}
