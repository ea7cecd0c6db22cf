import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

/** One row for each time a handler did something: what must never be there twice, or without its key. */
@Entity('effects')
export class Effect {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  label!: string;
}
