import { quoteIdentifier, tableName } from '../postgres/table-name.js';
import type { MigrationRunner } from '../postgres/ddl/migration-runner.js';

/** Rows that are copied in one transaction, whose renewals and deletions wait for its end: some tenths of a second. */
const BATCH = 5_000;

/** A table, as far as it is partitioned. */
export interface Table {
  name: string;
  /** By which the rows are found, and go to their partitions. */
  partitionKey: string;
  primaryKey: [first: string, second: string];
  types: [first: string, second: string];
  /** What is below every value of the first column, which is never NULL. */
  below: string;
  /** Columns with an index of their own. */
  indexed: string[];
}

/** The statements for one of the two tables. */
export class Move {
  readonly table: string;
  readonly next: string;
  private readonly old: string;
  private readonly relay: string;
  private readonly trigger: string;

  constructor(
    private readonly of: Table,
    private readonly schema: string,
    private readonly count: number,
  ) {
    this.table = tableName(of.name, schema);
    this.next = tableName(`${of.name}_next`, schema);
    this.old = tableName(`${of.name}_old`, schema);
    this.relay = tableName(`${of.name}_relay`, schema);
    this.trigger = quoteIdentifier(`${of.name}_relay`);
  }

  get create(): string[] {
    const by = this.count === 0 ? '' : ` partition by hash (${this.of.partitionKey})`;
    const partitions = Array.from(
      { length: this.count },
      (_, n) =>
        `create table ${tableName(`${this.of.name}_p${this.count}_${n}`, this.schema)} partition of ${this.next}` +
        ` for values with (modulus ${this.count}, remainder ${n})`,
    );
    return [`create table ${this.next} (like ${this.table} including all)${by}`, ...partitions];
  }

  /** What `like` leaves out: owner, grants, and the comment by which the table is known. */
  async rights(runner: MigrationRunner): Promise<string[]> {
    const rows = (await runner.query(
      `select format('alter table %s owner to %I', $2::text, pg_get_userbyid(c.relowner)) as statement
       from pg_class c where c.oid = $1::regclass and pg_get_userbyid(c.relowner) <> current_user
       union all
       select format('comment on table %s is %L', $2::text, obj_description($1::regclass, 'pg_class'))
       union all
       select format('grant %s on %s to %s', string_agg(lower(a.privilege_type), ', ' order by a.privilege_type), $2::text,
         case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
       from pg_class c, aclexplode(c.relacl) a where c.oid = $1::regclass and a.grantee <> c.relowner
       group by a.grantee`,
      [this.table, this.next],
    )) as { statement: string }[];
    return rows.map(({ statement }) => statement);
  }

  /**
   * From here on what changes in the one changes in the other, in the same transaction. Columns are named: a row comes in
   * the order of its partition, which may have been a table of its own.
   */
  async watch(runner: MigrationRunner): Promise<string[]> {
    const [first, second] = this.of.primaryKey;
    const columns = (await runner.query(
      `select quote_ident(attname) as name from pg_attribute
       where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum`,
      [this.table],
    )) as { name: string }[];
    const [into, from] = [columns.map(({ name }) => name), columns.map(({ name }) => `new.${name}`)];
    return [
      `create function ${this.relay}() returns trigger language plpgsql as $relay$
begin
  if tg_op <> 'INSERT' then
    delete from ${this.next} where ${first} = old.${first} and ${second} = old.${second};
  end if;
  if tg_op <> 'DELETE' then
    insert into ${this.next} (${into.join(', ')}) values (${from.join(', ')});
  end if;
  return null;
end $relay$`,
      `create trigger ${this.trigger} after insert or update or delete on ${this.table}
  for each row execute function ${this.relay}()`,
    ];
  }

  /** Rows are locked while they are copied: one that is deleted meanwhile would come back. Not inside of BEGIN. */
  get copy(): string {
    const [first, second] = this.of.primaryKey;
    const [firstType, secondType] = this.of.types;
    return `do $copy$
declare
  last_first ${firstType} := '${this.of.below}';
  last_second ${secondType} := '';
begin
  loop
    with batch as materialized (
      select * from ${this.table} where (${first}, ${second}) > (last_first, last_second)
      order by ${first}, ${second} limit ${BATCH} for share),
    copied as (insert into ${this.next} select * from batch on conflict do nothing)
    select ${first}, ${second} into last_first, last_second from batch order by ${first} desc, ${second} desc limit 1;
    exit when not found;
    commit;
  end loop;
end $copy$`;
  }

  get exchange(): string[] {
    const { name, indexed } = this.of;
    const { schema } = this;
    const indexes = ['pkey', ...indexed.map((column) => `${column}_idx`)];
    // Those that others have made may have other names: they are in nobody's way.
    const rename = (from: string, to: string) =>
      indexes.map(
        (index) =>
          `alter index if exists ${tableName(`${from}_${index}`, schema)} rename to ${quoteIdentifier(`${to}_${index}`)}`,
      );
    return [
      `drop trigger ${this.trigger} on ${this.table}`,
      `alter table ${this.table} rename to ${quoteIdentifier(`${name}_old`)}`,
      ...rename(name, `${name}_old`),
      `alter table ${this.next} rename to ${quoteIdentifier(name)}`,
      ...rename(`${name}_next`, name),
    ];
  }

  get drop(): string[] {
    return [`drop function ${this.relay}()`, `drop table ${this.old}`];
  }
}
