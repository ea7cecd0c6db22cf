import { isUtf8 } from 'node:buffer';
import { type ContentDigest, digestContent, digestFile } from './content-digest.js';
import { type HttpRequest, mediaType } from './http-request.js';
import { UnreadBodyError } from './unread-body.error.js';

export interface MultipartBody {
  readonly kind: 'multipart';
  readonly fields: Readonly<Record<string, unknown>>;
  /** Sorted by field name; files of one field keep their order. */
  readonly files: readonly FileDigest[];
}

/** A file by what the client sent. Where the server put it, and under which name, differs from retry to retry. */
export interface FileDigest extends ContentDigest {
  readonly field: string;
  /** Not known with @fastify/multipart's `attachFieldsToBody: 'keyValues'`, which keeps the content only. */
  readonly name?: string;
  readonly type?: string;
}

/** A file as multer describes it, on Express or in @nestjs/platform-fastify/multipart. */
interface StoredFile {
  readonly fieldname: string;
  readonly originalname: string;
  readonly mimetype: string;
  /** Set by memoryStorage(). */
  readonly buffer?: unknown;
  /** Set by diskStorage(). */
  readonly path?: unknown;
}

/** A part as @fastify/multipart attaches it to the body. */
interface AttachedPart {
  readonly fieldname: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly value?: unknown;
}

interface AttachedFile extends AttachedPart {
  readonly type: 'file';
  readonly filename?: string;
  readonly mimetype: string;
  readonly file: { readonly bytesRead?: number };
  toBuffer(): Promise<Buffer>;
}

/** Takes the text fields and the files from wherever multer or @fastify/multipart put them. */
export async function readMultipart(request: HttpRequest): Promise<MultipartBody> {
  const fields: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  const digests: Promise<FileDigest | undefined>[] = storedFiles(request).map(digestStoredFile);

  for (const [name, content] of Object.entries(request.body ?? {})) {
    const values: unknown[] = Array.isArray(content) ? content : [content];
    if (!values.some((value) => isAttached(value) || value instanceof Uint8Array)) {
      fields[name] = content;
      continue;
    }
    const texts: unknown[] = [];
    for (const value of values) {
      if (value instanceof Uint8Array) {
        digests.push(Promise.resolve({ field: name, ...digestContent(value) }));
      } else if (isAttachedFile(value)) {
        digests.push(digestAttachedFile(value));
      } else {
        texts.push(isAttached(value) ? value.value : value);
      }
    }
    // As multer does: one value stands by itself, several become an array.
    if (texts.length > 0) {
      fields[name] = texts.length === 1 ? texts[0] : texts;
    }
  }

  const files = (await Promise.all(digests)).filter((file) => file !== undefined);
  files.sort((one, other) => (one.field < other.field ? -1 : Number(one.field > other.field)));
  return { kind: 'multipart', fields, files };
}

/** What multer's single() leaves in `file`; array(), any() and, by field name, fields() in `files`. */
function storedFiles(request: HttpRequest): StoredFile[] {
  const { file, files } = request as { file?: unknown; files?: unknown };
  // On Fastify without multer's interceptors both are methods of @fastify/multipart.
  const found = [file, ...(isObject(files) ? Object.values(files).flat() : [])];
  return found.filter(isObject) as unknown as StoredFile[];
}

async function digestStoredFile(file: StoredFile): Promise<FileDigest> {
  const content = await digestStored(file);
  return { field: file.fieldname, name: asUtf8(file.originalname), type: mediaType(file.mimetype), ...content };
}

async function digestStored({ buffer, path, fieldname }: StoredFile): Promise<ContentDigest> {
  if (buffer instanceof Uint8Array) {
    return digestContent(buffer);
  }
  if (typeof path !== 'string') {
    throw UnreadBodyError.fileNotReadable(fieldname);
  }
  try {
    return await digestFile(path);
  } catch (error) {
    throw UnreadBodyError.fileNotReadable(fieldname, error);
  }
}

async function digestAttachedFile(part: AttachedFile): Promise<FileDigest | undefined> {
  const content = await part.toBuffer();
  // An `onFile` hook that streamed the file elsewhere leaves nothing to read, and no error either.
  if (content.length < (part.file.bytesRead ?? 0)) {
    throw UnreadBodyError.fileNotReadable(part.fieldname);
  }
  // An empty file input of an HTML form. multer leaves it out, so it must not count here.
  if (!part.filename && content.length === 0) {
    return undefined;
  }
  return {
    field: part.fieldname,
    name: asUtf8(part.filename ?? ''),
    type: mediaType(part.mimetype),
    ...digestContent(content),
  };
}

/** multer takes a file name's bytes for Latin-1 unless told otherwise; clients send UTF-8, and @fastify/multipart knows. */
function asUtf8(name: string): string {
  const bytes = Buffer.from(name, 'latin1');
  return bytes.toString('latin1') === name && isUtf8(bytes) ? bytes.toString() : name;
}

/** A part leads back to itself through `fields`, which nothing that came out of a parser does. */
function isAttached(value: unknown): value is AttachedPart {
  if (!isObject(value)) {
    return false;
  }
  const { fieldname, fields } = value;
  // A part without a name is attached as `undefined`.
  return isObject(fields) && [fields[String(fieldname)]].flat().includes(value);
}

function isAttachedFile(value: unknown): value is AttachedFile {
  return isAttached(value) && 'type' in value && value.type === 'file';
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
