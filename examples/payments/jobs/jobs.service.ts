import { type BeforeApplicationShutdown, Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import PgBoss from 'pg-boss';
import { DataSource } from 'typeorm';

export const DATABASE_URL = Symbol('DATABASE_URL');

const QUEUE = 'pay-out';

export interface PayOutJob {
  payoutId: string;
}

/** A queue of pg-boss, which keeps its jobs in tables of its own in the same database. */
@Injectable()
export class JobsService implements OnModuleInit, BeforeApplicationShutdown {
  private readonly logger = new Logger('Jobs');
  private readonly boss: PgBoss;
  private workerId = '';

  /**
   * pg-boss has connections of its own, for its workers. What requests ask of it goes over the DataSource instead, and
   * so joins the request's transaction: the job commits with the writes around it, or not at all.
   */
  private readonly db: PgBoss.Db;

  constructor(@Inject(DATABASE_URL) connectionString: string, dataSource: DataSource) {
    this.boss = new PgBoss({ connectionString, max: 2, schedule: false });
    this.boss.on('error', (error) => this.logger.error(error));
    // Good for INSERT and SELECT, which is all that goes this way: for others TypeORM answers in another form.
    this.db = { executeSql: async (sql, values) => ({ rows: await dataSource.query(sql, values) }) };
  }

  async onModuleInit(): Promise<void> {
    await this.boss.start();
    // A job whose worker has died is tried again after a minute, far beyond the time that one takes.
    await this.boss.createQueue(QUEUE, { name: QUEUE, retryLimit: 5, retryBackoff: true, expireInSeconds: 60 });
  }

  /** Waits for the job that runs. Those that are queued stay for the next start. */
  async beforeApplicationShutdown(): Promise<void> {
    await this.boss.stop({ timeout: 10_000 });
  }

  async enqueue(job: PayOutJob): Promise<string> {
    const id = await this.boss.send(QUEUE, job, { db: this.db });
    if (id === null) throw new Error('The queue did not take the job');
    return id;
  }

  /** @param run is called again for a job that was interrupted, so that its effect must be the same the second time */
  async work(run: (job: PayOutJob) => Promise<void>): Promise<void> {
    this.workerId = await this.boss.work<PayOutJob>(QUEUE, async ([job]) => run(job!.data));
  }

  /** Lets the worker look for jobs at once. Without it, it does so every 2 s. */
  wakeWorker(): void {
    this.boss.notifyWorker(this.workerId);
  }

  find(id: string): Promise<PgBoss.JobWithMetadata | null> {
    return this.boss.getJobById(QUEUE, id, { db: this.db, includeArchive: true });
  }
}
