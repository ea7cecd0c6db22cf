import {
  type ArgumentsHost,
  type CanActivate,
  Catch,
  type ExceptionFilter,
  type ExecutionContext,
  HttpException,
  Injectable,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import { IdempotencyException } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

/** Told apart from everything else by looks: it must turn up in the echo, and nowhere else. */
export const SECRET = 'k3y-that-nobody-may-read';

export interface AnyRequest {
  headers: Record<string, string | undefined>;
  body: { label: string; event?: { id?: unknown } };
  user?: unknown;
}

export const requestOf = (context: ExecutionContext): AnyRequest => context.switchToHttp().getRequest<AnyRequest>();

/** Puts the user of the header X-User onto the request, unless his token was revoked. */
@Injectable()
export class Authentication implements CanActivate {
  static readonly revoked = new Set<string>();

  canActivate(context: ExecutionContext): boolean {
    const request = requestOf(context);
    const user = request.headers['x-user'];
    request.user = user === undefined ? undefined : JSON.parse(user, (_, value) => (value === 'NaN' ? NaN : value));
    return user === undefined || !Authentication.revoked.has(user);
  }
}

/** Answers by the framework: NestJS 11 has a media type of its own for what its adapter of Express answers to errors. */
@Catch(IdempotencyException)
export class HouseStyle implements ExceptionFilter {
  catch(exception: IdempotencyException, host: ArgumentsHost): void {
    const response = host.switchToHttp().getResponse<FluentResponse>();
    response
      .status(418)
      .type('application/vnd.house+json')
      .send({ code: exception.getResponse().type, retry: exception.retryAfterSeconds });
  }
}

interface FluentResponse {
  status(code: number): this;
  type(mediaType: string): this;
  send(body: object): void;
}

/** As NestJS documents it. */
@Catch()
export class CatchAll implements ExceptionFilter {
  constructor(private readonly host: HttpAdapterHost) {}

  catch(exception: unknown, host: ArgumentsHost): void {
    const statusCode = exception instanceof HttpException ? exception.getStatus() : 500;
    const body = { statusCode, message: exception instanceof Error ? exception.message : undefined };
    this.host.httpAdapter.reply(host.switchToHttp().getResponse(), body, statusCode);
  }
}

/** Where a test holds the work, by label, and whether the work fails. */
@Injectable()
export class Cues {
  readonly started = new Map<string, () => void>();
  readonly goOn = new Map<string, Promise<void>>();
  fails = false;
}

/** Counts its runs in the database, under the label of the request, and answers with what tells one run from another. */
@Injectable()
export class Work {
  constructor(
    private readonly cues: Cues,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  async do(label: string) {
    const { id } = await this.effects.save({ label });
    this.cues.started.get(label)?.();
    await this.cues.goOn.get(label);
    if (this.cues.fails) {
      throw new Error(`kaput: ${label}`);
    }
    return { id, label };
  }

  async swallow(label: string) {
    await this.effects.save({ label });
    await this.dataSource.query('select 1 / 0').catch(() => undefined);
  }
}
