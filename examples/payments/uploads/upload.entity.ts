import { Column, CreateDateColumn, Entity, PrimaryColumn } from 'typeorm';

@Entity('uploads')
export class Upload {
  @PrimaryColumn('uuid', { default: () => 'gen_random_uuid()' })
  id!: string;

  @Column('text')
  filename!: string;

  @Column('integer')
  bytes!: number;

  @Column('text')
  sha256!: string;

  @CreateDateColumn({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;
}
