/**
 * Where errors of PostgreSQL, pg and TypeORM quote a statement and its values: the row that a constraint refused
 * (`detail`), the parameters (`where`, with `log_parameter_max_length_on_error`; TypeORM's `parameters`), and the text of a
 * statement, which may have values in it. An operator finds them in the server's own log, where he may.
 */
export const MEMBERS_WITH_VALUES = ['detail', 'where', 'internalQuery', 'query', 'parameters'] as const;

/**
 * The error as it may be logged or given on as a `cause`: without the members that quote values, and so are those it is
 * made of. The error itself is left as it is: it is the application's. One without any is answered as it is.
 */
export function errorWithoutValues(error: unknown): unknown {
  return strip(error, new Map());
}

/** @param seen an error may be its own cause, by way of others */
function strip(error: unknown, seen: Map<Error, Error>): unknown {
  if (!(error instanceof Error)) {
    return error;
  }
  const done = seen.get(error);
  if (done !== undefined) {
    return done;
  }
  const members = Object.getOwnPropertyDescriptors(error) as Record<string, PropertyDescriptor>;
  const copy = Object.create(Object.getPrototypeOf(error) as object) as Error;
  seen.set(error, copy);
  let differs = false;
  for (const name of MEMBERS_WITH_VALUES) {
    differs ||= Object.hasOwn(members, name);
    Reflect.deleteProperty(members, name);
  }
  for (const [name, member] of Object.entries(members)) {
    if (member.get !== undefined) {
      // From Node.js 21 on `stack` is an accessor that knows real errors only, and the copy is none.
      member.value = (error as unknown as Record<string, unknown>)[name];
      delete member.get;
      delete member.set;
      member.writable = true;
    }
    const stripped: unknown = Array.isArray(member.value)
      ? sameOr(
          member.value,
          member.value.map((each) => strip(each, seen)),
        )
      : strip(member.value, seen);
    differs ||= stripped !== member.value;
    member.value = stripped;
  }
  if (!differs) {
    seen.set(error, error);
    return error;
  }
  return Object.defineProperties(copy, members);
}

function sameOr<T>(before: T[], after: T[]): T[] {
  return after.every((each, index) => each === before[index]) ? before : after;
}
