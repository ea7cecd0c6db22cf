import { Exclude, Expose, Transform, Type } from 'class-transformer';
import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

/** What must not get out, wherever it stands. */
export const HIDDEN = 'hash-of-a-password';

@Entity()
export class User {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column({ type: 'text' })
  name!: string;

  @Column({ type: 'text' })
  @Exclude()
  password!: string;

  @Expose()
  get initial(): string {
    return this.name.slice(0, 1);
  }
}

export class Admin extends User {}

export class Profile {
  @Exclude({ toPlainOnly: true })
  secret = HIDDEN;

  city = 'Prague';
}

/** It hides nothing itself. */
export class Holder {
  name = 'holder';
  profile = new Profile();
}

export class TypedHolder {
  name = 'holder';

  @Type(() => Profile)
  profile = new Profile();
}

@Exclude()
export class AllHidden {
  password = HIDDEN;

  @Expose()
  name = 'shown';
}

export class ForAGroup {
  name = 'shown';

  @Expose({ groups: ['admin'] })
  password = HIDDEN;
}

export class SinceAVersion {
  name = 'shown';

  @Expose({ since: 2 })
  password = HIDDEN;
}

export class MaskedForAGroup {
  @Transform(() => '****', { groups: ['public'] })
  card = HIDDEN;
}

export class Masked {
  @Transform(({ value }: { value: string }) => `${value.slice(0, 1)}***`)
  card = HIDDEN;
}

/** What it stands for is in one text. */
export class Amount {
  private readonly digits = [1, 2];

  toJSON(): string {
    return this.digits.join('.');
  }
}

/** Nothing of it is hidden or changed. */
export class Order {
  @Expose()
  id = 1;

  @Type(() => Date)
  placedAt = new Date(0);

  @Type(() => Number)
  count = 2;

  amount = new Amount();

  lines = [new Line('a'), new Line('b')];

  @Exclude({ toClassOnly: true })
  note: string | null = null;
}

class Line {
  constructor(readonly label: string) {}
}

/** What it holds is not known to be masked once it is data. */
export class MaskedHolder {
  masked = new Masked();
}

/** Its own text differs each time it is made of itself. */
export class Growing {
  @Exclude()
  password = HIDDEN;

  @Transform(({ value }: { value: string }) => `<${value}>`)
  label = 'label';
}

export class Formatted {
  @Exclude()
  password = HIDDEN;

  @Transform(({ value }: { value: number }) => value.toFixed(2), { toPlainOnly: true })
  price = 1.5;

  @Expose({ name: 'heading' })
  title = 'title';

  @Type(() => Date)
  at = new Date(0);
}
