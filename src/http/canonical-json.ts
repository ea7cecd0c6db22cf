import { types } from 'node:util';

/** Receives the text piece by piece. No piece ends inside a token, so each can be encoded by itself. */
export type WriteChunk = (chunk: string) => void;

/** An object or array that has been opened and not yet closed. */
interface Level {
  /** The object itself, not what its `toJSON` or iterator gave: by it a cycle is recognised. */
  readonly origin: object;
  readonly members: ArrayLike<unknown> | Readonly<Record<string, unknown>>;
  /** Sorted member names of an object; an array has none. */
  readonly names: readonly string[] | undefined;
  readonly length: number;
  next: number;
  isEmpty: boolean;
}

/** In UTF-16 code units. Large enough that the sink's cost per call does not show, small against a body of 1 MiB. */
const CHUNK_LENGTH = 16_384;

/** Below this many names insertion beats `Array.prototype.sort()`, which copies; it is nearly free on sorted names. */
const MAX_INSERTION_SORT = 24;

/** Double quote, backslash, control characters, and surrogates of which one may be alone. */
// oxlint-disable-next-line no-control-regex -- RFC 8785, section 3.2.2.2, is about control characters
const NEEDS_ESCAPE = /["\\\u0000-\u001f\ud800-\udfff]/;

/**
 * Writes `value` as canonical JSON (RFC 8785): no white space, members sorted by the UTF-16 code units of their names
 * (section 3.2.3), numbers and strings as ECMAScript serialises them (section 3.2.2).
 *
 * What JSON cannot say is handled as by `JSON.stringify()` (`toJSON()` is called, `undefined` members are left out),
 * except where two different values would come out alike, since here that means that a changed request passes for a
 * retry:
 *
 * - `NaN`, `Infinity` (which `JSON.parse()` makes of `1e999`) and BigInts (`1n`) are written as in ECMAScript;
 * - iterables such as `Map` and `Set` are written as the array of what they yield;
 * - lone surrogates are escaped (`\ud800`), where RFC 8785 demands an error: it is the client who sent them.
 *
 * It does not recurse: `JSON.parse()` accepts half a million brackets in 1 MiB.
 *
 * @throws TypeError on a cycle
 */
export function writeCanonicalJson(value: unknown, write: WriteChunk): void {
  new CanonicalJsonWriter(write).write(value);
}

class CanonicalJsonWriter {
  private text = '';
  private readonly levels: Level[] = [];

  constructor(private readonly flush: WriteChunk) {}

  write(root: unknown): void {
    this.writeValue(root, toJsonValue(root, '') ?? null);
    for (let level = this.levels.at(-1); level !== undefined; level = this.levels.at(-1)) {
      if (level.next < level.length) {
        this.writeNext(level);
      } else {
        this.text += level.names === undefined ? ']' : '}';
        this.levels.pop();
      }
      if (this.text.length >= CHUNK_LENGTH) {
        this.flushText();
      }
    }
    this.flushText();
  }

  private writeNext(level: Level): void {
    const index = level.next++;
    const name = level.names === undefined ? index : level.names[index]!;
    const origin = (level.members as Readonly<Record<string | number, unknown>>)[name];
    const value = toJsonValue(origin, name);
    if (level.names !== undefined && value === undefined) {
      return;
    }

    if (!level.isEmpty) {
      this.text += ',';
    }
    level.isEmpty = false;
    if (typeof name === 'string') {
      this.text += `${quote(name)}:`;
    }
    this.writeValue(origin, value ?? null);
  }

  private writeValue(origin: unknown, value: NonNullable<unknown> | null): void {
    switch (typeof value) {
      case 'string':
        this.text += quote(value);
        break;
      case 'bigint':
        this.text += `${value}n`;
        break;
      case 'object':
        if (value === null) {
          this.text += 'null';
        } else {
          this.open(typeof origin === 'object' && origin !== null ? origin : value, value);
        }
        break;
      default:
        // A boolean or a number: RFC 8785 takes ECMAScript's format, in which -0 is 0.
        this.text += String(value);
    }
  }

  private open(origin: object, members: object): void {
    const names = Array.isArray(members) ? undefined : sortedNames(members);
    const length = names === undefined ? (members as unknown[]).length : names.length;
    this.text += names === undefined ? '[' : '{';
    this.refuseCycle(origin);
    this.levels.push({ origin, members: members as Level['members'], names, length, next: 0, isEmpty: true });
  }

  /**
   * A cycle repeats its objects on the way down, so one comparison per level finds it (Brent's algorithm): with the
   * ancestor at the last power of two, which moves on until it lies inside the cycle and the cycle fits in behind it.
   */
  private refuseCycle(origin: object): void {
    const depth = this.levels.length;
    if (depth > 1 && this.levels[1 << (31 - Math.clz32(depth - 1))]!.origin === origin) {
      throw new TypeError('Cannot write a value that contains itself as canonical JSON.');
    }
  }

  private flushText(): void {
    if (this.text !== '') {
      this.flush(this.text);
    }
    this.text = '';
  }
}

/** What is to be written for a value, or `undefined` if JSON leaves it out. */
function toJsonValue(value: unknown, name: string | number): unknown {
  let written = value;
  if (typeof written === 'object' && written !== null) {
    const { toJSON } = written as { toJSON?: unknown };
    if (typeof toJSON === 'function') {
      written = toJSON.call(written, String(name)) as unknown;
    }
    if (typeof written === 'object' && written !== null) {
      written = unwrap(written);
    }
  }
  return typeof written === 'function' || typeof written === 'symbol' ? undefined : written;
}

function unwrap(value: object): unknown {
  if (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype) {
    return value;
  }
  if (types.isBoxedPrimitive(value)) {
    return value.valueOf();
  }
  return Symbol.iterator in value ? [...(value as Iterable<unknown>)] : value;
}

/** Names in the order of their UTF-16 code units, which is what `<` and `sort()` go by. */
function sortedNames(object: object): string[] {
  const names = Object.keys(object);
  if (names.length > MAX_INSERTION_SORT) {
    return names.toSorted();
  }
  for (let end = 1; end < names.length; end++) {
    const name = names[end]!;
    let slot = end;
    for (; slot > 0 && names[slot - 1]! > name; slot--) {
      names[slot] = names[slot - 1]!;
    }
    names[slot] = name;
  }
  return names;
}

/** `JSON.stringify()` is exactly what section 3.2.2.2 asks for; most strings need none of it, and this is the hot path. */
function quote(text: string): string {
  return NEEDS_ESCAPE.test(text) ? JSON.stringify(text) : `"${text}"`;
}
