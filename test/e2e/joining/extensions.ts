import { DataSource, EntityManager, type QueryRunner, type ReplicationMode } from 'typeorm';
import { PostgresDriver } from 'typeorm/driver/postgres/PostgresDriver.js';
import { PostgresQueryRunner } from 'typeorm/driver/postgres/PostgresQueryRunner.js';

/** Tells PostgreSQL of the tenant before each statement and takes it back behind it, as packages for RLS do. */
class TenantRunner extends PostgresQueryRunner {
  private isControl = false;

  constructor(
    driver: PostgresDriver,
    mode: ReplicationMode,
    private readonly tenant: { name: string },
  ) {
    super(driver, mode);
  }

  override async query(sql: string, parameters?: unknown[], structured = false): Promise<never> {
    if (this.isControl) {
      return (await super.query(sql, parameters, structured as true)) as never;
    }
    await super.query(`select set_config('app.tenant', '${this.tenant.name}', false)`);
    const result = await super.query(sql, parameters, structured as true);
    await super.query('reset app.tenant');
    return result as never;
  }

  override startTransaction(): Promise<void> {
    return this.control(() => super.startTransaction());
  }

  override commitTransaction(): Promise<void> {
    return this.control(() => super.commitTransaction());
  }

  override rollbackTransaction(): Promise<void> {
    return this.control(() => super.rollbackTransaction());
  }

  private async control(work: () => Promise<void>): Promise<void> {
    this.isControl = true;
    try {
      await work();
    } finally {
      this.isControl = false;
    }
  }
}

class TenantDriver extends PostgresDriver {
  constructor(
    dataSource: DataSource,
    private readonly tenant: { name: string },
  ) {
    super(dataSource);
    Object.assign(this, dataSource.driver);
  }

  override createQueryRunner(mode: ReplicationMode): PostgresQueryRunner {
    return new TenantRunner(this, mode, this.tenant);
  }
}

/** A view of another DataSource, made for each request: it shares its connections. */
export class TenantView extends DataSource {
  constructor(dataSource: DataSource, tenant: string) {
    super(dataSource.options);
    Object.assign(this, dataSource);
    Object.assign(this, { driver: new TenantDriver(this, { name: tenant }) });
    Object.assign(this, { manager: this.createEntityManager() });
  }

  override destroy(): Promise<void> {
    return Promise.reject(new Error('a view is not to be closed'));
  }
}

/** The DataSource itself has runners of that kind. */
export function withTenantRunners(dataSource: DataSource, tenant: string): DataSource {
  const { driver } = dataSource;
  const createQueryRunner = (mode: ReplicationMode): QueryRunner =>
    new TenantRunner(driver as PostgresDriver, mode, { name: tenant });
  return Object.assign(dataSource, { driver: Object.assign(driver, { createQueryRunner }) });
}

/** Sets the tenant for the transaction that it begins. */
class LocalTenantRunner extends PostgresQueryRunner {
  override async startTransaction(): Promise<void> {
    await super.startTransaction();
    await this.query(`select set_config('app.tenant', 'local', true)`);
  }
}

export function withLocalTenantRunners(dataSource: DataSource): DataSource {
  const { driver } = dataSource;
  const createQueryRunner = (mode: ReplicationMode): QueryRunner =>
    new LocalTenantRunner(driver as PostgresDriver, mode);
  return Object.assign(dataSource, { driver: Object.assign(driver, { createQueryRunner }) });
}

type Work = (manager: EntityManager) => Promise<unknown>;

/** A manager whose transactions begin with something of the application's. */
class TenantManager extends EntityManager {
  override transaction(...given: unknown[]): Promise<never> {
    const work = given.find((one) => typeof one === 'function') as Work;
    return super.transaction(async (manager) => {
      await manager.query(`select set_config('app.tenant', 'by the manager', true)`);
      return work(manager);
    }) as Promise<never>;
  }
}

export class TenantDataSource extends DataSource {
  override createEntityManager(queryRunner?: QueryRunner): EntityManager {
    return new TenantManager(this, queryRunner);
  }
}
