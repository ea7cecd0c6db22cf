import type { ServerResponse } from 'node:http';
import {
  type CallHandler,
  type ExecutionContext,
  Injectable,
  mixin,
  type NestInterceptor,
  type Type,
} from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { map, Observable } from 'rxjs';
import type { Repository } from 'typeorm';
import { type Deferred, deferred } from '../../../src/util/deferred.js';
import { Effect } from '../../support/effect.entity.js';

/** What `@Res()` hands over: Express' response, or Fastify's reply. */
export interface AnyResponse {
  status(code: number): AnyResponse;
  header(name: string, value: string | string[]): AnyResponse;
  send(body?: unknown): AnyResponse;
  hijack?(): void;
  raw?: ServerResponse;
}

export const rawOf = (response: AnyResponse): ServerResponse => response.raw ?? (response as unknown as ServerResponse);

/** A place in a handler, or in what is around it, where a test holds it; by name. */
class Gates {
  private readonly gates = new Map<string, { entered: Deferred<void>; opened: Deferred<void> }>();

  async pass(name: string): Promise<void> {
    const { entered, opened } = this.at(name);
    entered.resolve();
    await opened.promise;
  }

  entered(name: string): Promise<void> {
    return this.at(name).entered.promise;
  }

  opened(name: string): Promise<void> {
    return this.at(name).opened.promise;
  }

  open(name: string): void {
    this.at(name).opened.resolve();
  }

  reset(): void {
    this.gates.clear();
  }

  private at(name: string) {
    const gate = this.gates.get(name) ?? { entered: deferred(), opened: deferred() };
    this.gates.set(name, gate);
    return gate;
  }
}

/** A test turns it off for the retry. */
export const stage = {
  /** Whether handlers, and what is around them, fail as their names say. */
  broken: true,
};
export const gates = new Gates();

/** What handlers have noted, by label. */
export const notes = new Map<string, unknown[]>();

export function note(label: string, what: unknown): void {
  notes.set(label, [...(notes.get(label) ?? []), what]);
}

/** An interceptor that does this with what the handler answers. */
export function outer(around: (handled: Observable<unknown>, context: ExecutionContext) => Observable<unknown>): Type {
  @Injectable()
  class Outer implements NestInterceptor {
    intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
      return around(next.handle(), context);
    }
  }
  return mixin(Outer);
}

export const labelOf = (context: ExecutionContext): string =>
  context.switchToHttp().getRequest<{ body: { label: string } }>().body.label;

@Injectable()
export class Ledger {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  async write(label: string): Promise<{ label: string }> {
    note(label, 'ran');
    await this.effects.save({ label });
    return { label };
  }
}

export interface Labelled {
  label: string;
  sql?: string;
}

/** Lets the value pass, or throws from within `map`. */
export function catchOrGiveUp(error: Error) {
  return map((value: unknown) => {
    if (stage.broken) {
      throw error;
    }
    return value;
  });
}
