import {
  Column,
  DataSource,
  DeleteDateColumn,
  Entity,
  type EntityManager,
  type EntitySubscriberInterface,
  EventSubscriber,
  type InsertEvent,
  ManyToOne,
  OneToMany,
  PrimaryGeneratedColumn,
  type Relation,
  Repository,
  Tree,
  TreeChildren,
  TreeParent,
} from 'typeorm';
import { Effect } from '../../support/effect.entity.js';

@Entity('authors')
export class Author {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  name!: string;

  @Column('int', { default: 0 })
  prizes!: number;

  @OneToMany(() => Book, (book) => book.author, { cascade: true })
  books!: Book[];

  @OneToMany(() => Letter, (letter) => letter.author)
  letters!: Promise<Letter[]>;

  @DeleteDateColumn()
  deletedAt!: Date | null;
}

@Entity('books')
export class Book {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  title!: string;

  @ManyToOne(() => Author, (author) => author.books)
  author!: Relation<Author>;
}

@Entity('letters')
export class Letter {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  text!: string;

  @ManyToOne(() => Author, (author) => author.letters)
  author!: Promise<Author>;
}

@Entity('shelves')
@Tree('closure-table')
export class Shelf {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  name!: string;

  @TreeChildren()
  children!: Shelf[];

  @TreeParent()
  parent!: Shelf | null;
}

/** Writes beside the statement that it is told of, by what TypeORM hands it. */
@EventSubscriber()
export class Auditor implements EntitySubscriberInterface<Effect> {
  listenTo() {
    return Effect;
  }

  async afterInsert({ entity, manager, queryRunner }: InsertEvent<Effect>): Promise<void> {
    switch (entity.label) {
      case 'audited by the manager':
        await manager.insert(Effect, { label: 'audit' });
        break;
      case 'audited by the runner':
        await queryRunner.query(`insert into effects (label) values ('audit')`);
        break;
      case 'audited in a transaction':
        await manager.transaction((nested) => nested.insert(Effect, { label: 'audit' }));
        break;
    }
  }

  async afterQuery({ query, manager }: { query: string; manager: EntityManager }): Promise<void> {
    if (query.startsWith('select /* watched */')) {
      await manager.transaction((nested) => nested.query(`insert into effects (label) values ('watched')`));
    }
  }
}

/** The way NestJS' documentation makes them: with a manager of its own. */
export class EffectRepository extends Repository<Effect> {
  constructor(dataSource: DataSource) {
    super(Effect, dataSource.createEntityManager());
  }

  add(label: string): Promise<Effect> {
    return this.save({ label });
  }

  inTransaction(work: (manager: EntityManager) => Promise<void>): Promise<void> {
    return this.manager.transaction(work);
  }
}

export const ENTITIES = [Effect, Author, Book, Letter, Shelf];
