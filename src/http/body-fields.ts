import type { RequestBody } from './request-body.js';

/** Fields of a body to leave out, or the only ones to take, each a path of names with dots between them. */
export interface BodyFields {
  readonly omit?: readonly string[] | undefined;
  readonly pick?: readonly string[] | undefined;
}

/** What is left to go of each path. */
type Paths = readonly (readonly string[])[];

/**
 * The body as if it had been sent with those fields alone. One that has no fields (text, bytes, a JSON string) stays
 * whole, and so does one that has none of those to pick: it must not pass for every other of its kind.
 */
export function selectFields(body: RequestBody, { omit, pick }: BodyFields): RequestBody {
  const select = pick === undefined ? without : only;
  const paths = (pick ?? omit ?? []).map((path) => path.split('.'));
  switch (body.kind) {
    case 'none':
    case 'bytes':
      return body;
    case 'json': {
      const value = select(body.value, paths);
      return value === undefined ? body : { kind: 'json', value };
    }
    case 'multipart': {
      const named = new Set(paths.filter(({ length }) => length === 1).map(([name]) => name));
      const files = body.files.filter(({ field }) => named.has(field) === (pick !== undefined));
      const fields = select(body.fields, paths) as Record<string, unknown> | undefined;
      return fields === undefined && files.length === 0 ? body : { kind: 'multipart', fields: fields ?? {}, files };
    }
  }
}

function without(value: unknown, paths: Paths): unknown {
  if (Array.isArray(value)) {
    return value.map((element: unknown) => (Array.isArray(element) ? element : without(element, paths)));
  }
  if (!hasFields(value)) {
    return value;
  }
  const left = Object.create(null) as Record<string, unknown>;
  for (const [name, member] of Object.entries(value)) {
    const below = pathsBelow(paths, name);
    if (below.length === 0) {
      left[name] = member;
    } else if (!below.some(({ length }) => length === 0)) {
      left[name] = without(member, below);
    }
  }
  return left;
}

/** `undefined` where nothing of it is picked. */
function only(value: unknown, paths: Paths): unknown {
  if (Array.isArray(value)) {
    const elements = value.map((element: unknown) => (Array.isArray(element) ? element : only(element, paths)));
    return elements.every((element) => element === undefined) ? undefined : elements;
  }
  if (!hasFields(value)) {
    return undefined;
  }
  const picked = Object.create(null) as Record<string, unknown>;
  for (const [name, member] of Object.entries(value)) {
    const below = pathsBelow(paths, name);
    if (below.length > 0) {
      const whole = below.some(({ length }) => length === 0) || !(Array.isArray(member) || hasFields(member));
      const chosen = whole ? member : only(member, below);
      if (chosen !== undefined) {
        picked[name] = chosen;
      }
    }
  }
  return Object.keys(picked).length === 0 ? undefined : picked;
}

function pathsBelow(paths: Paths, name: string): Paths {
  return paths.filter(([first]) => first === name).map(([, ...rest]) => rest);
}

/** Not what stands for something else in JSON, a date for instance. */
function hasFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return (
    typeof value === 'object' &&
    value !== null &&
    !(Symbol.iterator in value) &&
    typeof (value as { toJSON?: unknown }).toJSON !== 'function'
  );
}
