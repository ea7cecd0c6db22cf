import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

/** What the measured handlers write: one row. */
@Entity('effects')
export class Effect {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  label!: string;
}
