import { Logger, type Type } from '@nestjs/common';
import { type IsDecorated } from './decorated-classes.js';
import { DurableStepError } from '../../protocol/durable-step.error.js';
import { outcomeAsJson, withoutJson } from './step-outcome.js';
import {
  asInstance,
  type Data,
  ELSEWHERE,
  isOpen,
  isPlain,
  isSame,
  mapValues,
  nameOf,
  sorted,
  withoutInstances,
} from './plain-data.js';

export type Transformer = typeof import('class-transformer');
type Options = NonNullable<Parameters<Transformer['instanceToPlain']>[1]>;

/** A list of groups that has any group: what is done for one of them only is found without its name. */
const ANY_GROUP = Object.assign([''], { some: () => true });

/** The ways in which a route may serialize: decorators may ask for a version or a group. */
const WAYS: readonly Options[] = [{}, { version: -Infinity }, { version: Infinity }, { groups: ANY_GROUP }];

const logger = new Logger('Idempotency');
const warned = new Set<string>();

/**
 * What `@Exclude()` and its kin of class-transformer hide or change is known by the class of an instance. A step's result is
 * plain data, of which ClassSerializerInterceptor knows nothing any more: what is hidden must not get that far. All is
 * found by what the package does: a bundle may have another copy of what it keeps inside.
 */
export class ClassResults {
  constructor(
    private readonly transformer: Transformer,
    private readonly isDecorated: IsDecorated,
  ) {}

  /** What `ctx.step` stores: its effect is had, so that what is hidden is left out, and said once. */
  withoutHidden(step: string, value: unknown): unknown {
    return this.replaceSensitive(step, value, (instance) => {
      const name = nameOf(instance);
      const what = `${step.split(' [')[0]} ${name}`; // whatever the key of the step
      if (!warned.has(what)) {
        warned.add(what);
        logger.warn(
          `Step "${step}" returned a ${name}, of which class-transformer hides or changes something. A step's result is plain data, so what it stores and gives is what class-transformer makes of the ${name}. ` +
            'Return the data that later steps need; or, from ctx.transaction, say { as: ' +
            `${name} }.`,
        );
      }
      return this.alwaysShown(instance);
    });
  }

  /** Which version or group the route will ask for is not known here. */
  private alwaysShown(instance: Data): Data {
    const [, ...others] = WAYS.map((way) => this.plainBy(way, instance) ?? {});
    return Object.fromEntries(
      Object.entries(this.transformer.instanceToPlain(instance)).filter(([key, value]) =>
        others.every((other) => key in other && isSame(other[key], value)),
      ),
    );
  }

  /** What `ctx.transaction` stores, before its COMMIT. @throws DurableStepError for what would be hidden no more */
  assertNothingHidden(step: string, value: unknown): void {
    this.replaceSensitive(step, value, (instance) => {
      const name = nameOf(instance);
      throw new DurableStepError(
        `Step "${step}" returned a ${name}, of which class-transformer hides or changes something: as the plain data that a step gives, it would reach the client as it is. ` +
          `Say what it is, ctx.transaction(name, { as: ${name} }, run), which gives instances back; or return the data that later steps need.`,
      );
    });
  }

  /**
   * The data of instances, without what is hidden whatever the route asks for.
   *
   * @throws DurableStepError where they could not be brought back
   */
  dataOf<T extends object>(step: string, as: Type<T>, value: unknown): unknown {
    const original = this.revive(as, value);
    const data = (JSON.parse(outcomeAsJson(step, { returned: this.strip(step, original) })) as { returned: unknown })
      .returned;
    for (const way of WAYS) {
      if (this.shown(original, way) !== this.shown(this.revive(as, data), way)) {
        throw new DurableStepError(
          `Step "${step}" returned a ${as.name} that cannot be brought back from its data: class-transformer would make something else of it. ` +
            'Name the classes of nested objects by @Type(), and let @Transform() only work toPlainOnly; or return the data that later steps need.',
        );
      }
    }
    return data;
  }

  /** Instances of their data; what is one already, or is no object, stays. */
  revive<T extends object>(as: Type<T>, data: unknown): unknown {
    if (Array.isArray(data)) {
      return data.map((item) => this.revive(as, item));
    }
    return typeof data !== 'object' || data === null || data instanceof as
      ? data
      : this.transformer.plainToInstance(as, data, { ignoreDecorators: true });
  }

  private replaceSensitive(step: string, value: unknown, replace: (instance: Data) => unknown): unknown {
    const known = new Map<string, boolean>();
    const around = new Set<object>();
    const visit = (node: unknown): unknown => {
      if (!isOpen(node) || around.has(node)) {
        return node; // what contains itself has no JSON, which is for others to say
      }
      around.add(node);
      const replaced = replaceIn(node);
      around.delete(node);
      return replaced;
    };
    const replaceIn = (node: Data): unknown => {
      if (Array.isArray(node)) {
        return node.map(visit);
      }
      if (this.isSensitive(node, known)) {
        return replace(node);
      }
      return typeof node['toJSON'] === 'function' ? visit(node['toJSON']()) : mapValues(node, visit);
    };
    try {
      return visit(value);
    } catch (cause) {
      throw cause instanceof DurableStepError ? cause : withoutJson(step, cause);
    }
  }

  /** Whether anything of it, as far as no other instance is concerned, is hidden or changed. */
  private isSensitive(node: Data, known: Map<string, boolean>): boolean {
    if (isPlain(node) || !this.isDecorated(node)) {
      return false;
    }
    const own = mapValues(node, (value) => withoutInstances(value));
    const shape = JSON.stringify([nameOf(node), own]);
    const before = known.get(shape);
    const isSensitive = before ?? WAYS.some((way) => this.changes(asInstance(node, own), own, way));
    known.set(shape, isSensitive);
    return isSensitive;
  }

  private changes(instance: object, own: Data, way: Options): boolean {
    const plain = this.plainBy(way, instance);
    return plain === undefined || Object.keys(plain).length !== Object.keys(own).length || !isSame(plain, own);
  }

  /** Without the properties that no way of serializing shows, under whatever name. */
  private strip(step: string, value: unknown): unknown {
    return this.replaceSensitive(step, value, (instance) => {
      const plain = WAYS.map((way) => this.plainBy(way, instance) ?? {});
      const shown = Object.entries(instance).filter(
        ([key]) => plain.some((one) => key in one) || WAYS.some((way) => this.renames(instance, key, way)),
      );
      return mapValues(Object.fromEntries(shown), (each) => this.strip(step, each));
    });
  }

  private renames(node: Data, key: string, way: Options): boolean {
    const renamed = this.plainBy(way, asInstance(node, { ...node, [key]: ELSEWHERE }));
    return Object.values(renamed ?? {}).includes(ELSEWHERE);
  }

  /** Nothing where a getter or a transformation of it fails. */
  private plainBy(way: Options, instance: object): Data | undefined {
    try {
      return this.transformer.instanceToPlain(instance, way);
    } catch {
      return undefined;
    }
  }

  private shown(value: unknown, way: Options): string {
    try {
      return JSON.stringify(sorted(this.transformer.instanceToPlain(value, way))) ?? '';
    } catch (error) {
      return String(error);
    }
  }
}
