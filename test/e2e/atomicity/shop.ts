import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor } from '@nestjs/common';
import { InjectDataSource, InjectEntityManager, InjectRepository } from '@nestjs/typeorm';
import { mergeMap, type Observable } from 'rxjs';
import { DataSource, EntityManager, type Repository } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { Effect } from '../../support/effect.entity.js';

/** What a test tells the handlers, and they it. */
@Injectable()
export class Script {
  fails = false;
  /** Where a handler stops until the test lets it go on. */
  private arrival = deferred<number>();
  private departure = deferred();
  late: Promise<unknown> = Promise.resolve();
  seen: unknown;

  async stopAt(pid: number): Promise<void> {
    this.arrival.resolve(pid);
    await this.departure.promise;
  }

  /** The backend of the handler that has stopped. */
  arrived(): Promise<number> {
    return this.arrival.promise;
  }

  goOn(): void {
    this.departure.resolve();
    this.arrival = deferred();
    this.departure = deferred();
  }
}

@Injectable()
export class Orders {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  async place(): Promise<void> {
    await this.effects.save({ label: 'order' });
  }
}

@Injectable()
export class Outbox {
  constructor(@InjectEntityManager() private readonly manager: EntityManager) {}

  /** In a savepoint. */
  async announce(): Promise<void> {
    await this.manager.transaction((nested) => nested.insert(Effect, { label: 'message' }));
  }
}

@Injectable()
export class Books {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async post(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    await this.dataSource.query(`insert into effects (label) values ('entry')`);
  }

  async backend(): Promise<number> {
    const [{ pid }] = await this.dataSource.query<[{ pid: number }]>('select pg_backend_pid() as pid');
    return pid;
  }
}

/** Between the handler's end and the record: where the response is written. */
@Injectable()
export class StopOutside implements NestInterceptor {
  constructor(private readonly script: Script) {}

  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(
      mergeMap(async (value: { pid: number }) => {
        await this.script.stopAt(value.pid);
        return { outside: true };
      }),
    );
  }
}

export const PROVIDERS = [Orders, Outbox, Books, StopOutside];
