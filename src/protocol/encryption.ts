import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { EncryptionOptions } from './options.js';
import { IdempotencyStoreUnavailableException } from './exceptions.js';
import type { HeaderLine, RecordableResponse } from './response.js';

const ALGORITHM = 'aes-256-gcm';

/** Of GCM (NIST SP 800-38D, 5.2.1.1): one at random for each of far fewer than 2^32 messages a key. */
const IV_BYTES = 12;
const TAG_BYTES = 16;
export const KEY_BYTES = 32;

/**
 * In place of the headers of a response: no name of a header, so that a version of this library that knows nothing of it
 * sends nothing rather than what it cannot read.
 */
const MARK = `:${ALGORITHM}`;

/** What is bound to the bytes: put into another row, they cannot be read. */
export type Identity = readonly string[];

interface Sealed {
  readonly keyId: string;
  readonly bytes: Buffer;
}

/** The head of a response, and what opens its body, whose bytes stay as many as they were. */
interface Head {
  readonly headers: HeaderLine[];
  readonly body: string | null;
}

/** Keeps what is stored of responses and steps from who can read the database. */
export class Encryption {
  private readonly keys: ReadonlyMap<string, Buffer>;
  private readonly currentKeyId: string | undefined;

  /** @param options nothing where new records are not to be encrypted */
  constructor(options: EncryptionOptions | undefined) {
    this.keys = new Map(Object.entries(options?.keys ?? {}).map(([id, key]) => [id, keyBytes(key)]));
    this.currentKeyId = options?.currentKeyId;
  }

  sealResponse(response: RecordableResponse, identity: Identity): RecordableResponse {
    const keyId = this.currentKeyId;
    if (keyId === undefined) {
      return response;
    }
    const { headers, body } = response;
    const sealedBody = body === null ? undefined : this.seal(keyId, body, ['body', ...identity]);
    const head: Head = { headers, body: sealedBody?.envelope.toString('base64') ?? null };
    const sealed = this.seal(keyId, Buffer.from(JSON.stringify(head)), ['head', ...identity]);
    const line = Buffer.concat([sealed.envelope, sealed.bytes]).toString('base64');
    return { ...response, headers: [[MARK, JSON.stringify([keyId, line])]], body: sealedBody?.bytes ?? null };
  }

  /** @throws IdempotencyStoreUnavailableException when it cannot be read with the keys that are here */
  openResponse<Kept extends { headers: HeaderLine[]; body: Buffer }>(response: Kept, identity: Identity): Kept {
    const [first] = response.headers;
    if (first?.[0] !== MARK) {
      return response;
    }
    const [keyId, line] = JSON.parse(first[1]!) as [string, string];
    const bytes = this.open({ keyId, bytes: Buffer.from(line, 'base64') }, ['head', ...identity]);
    const { headers, body } = JSON.parse(bytes.toString()) as Head;
    const envelope = Buffer.from(body ?? '', 'base64');
    return {
      ...response,
      headers,
      body: this.open({ keyId, bytes: Buffer.concat([envelope, response.body]) }, ['body', ...identity]),
    };
  }

  /** What stands for the text, as JSON does; the text itself where nothing is to be encrypted. */
  sealText(text: string, identity: Identity): readonly [keyId: string, bytes: string] | undefined {
    const keyId = this.currentKeyId;
    if (keyId === undefined) {
      return undefined;
    }
    const { envelope, bytes } = this.seal(keyId, Buffer.from(text), identity);
    return [keyId, Buffer.concat([envelope, bytes]).toString('base64')];
  }

  /** @throws IdempotencyStoreUnavailableException when it cannot be read with the keys that are here */
  openText([keyId, bytes]: readonly [keyId: string, bytes: string], identity: Identity): string {
    return this.open({ keyId, bytes: Buffer.from(bytes, 'base64') }, identity).toString();
  }

  private seal(keyId: string, plain: Buffer, identity: Identity): { envelope: Buffer; bytes: Buffer } {
    const iv = randomBytes(IV_BYTES);
    const cipher = createCipheriv(ALGORITHM, this.keyOf(keyId), iv);
    cipher.setAAD(Buffer.from(JSON.stringify(identity)));
    const bytes = Buffer.concat([cipher.update(plain), cipher.final()]);
    return { envelope: Buffer.concat([iv, cipher.getAuthTag()]), bytes };
  }

  private open({ keyId, bytes }: Sealed, identity: Identity): Buffer {
    const key = this.keyOf(keyId);
    const tagAt = IV_BYTES;
    const textAt = IV_BYTES + TAG_BYTES;
    try {
      const decipher = createDecipheriv(ALGORITHM, key, bytes.subarray(0, tagAt), { authTagLength: TAG_BYTES });
      decipher.setAAD(Buffer.from(JSON.stringify(identity)));
      decipher.setAuthTag(bytes.subarray(tagAt, textAt));
      return Buffer.concat([decipher.update(bytes.subarray(textAt)), decipher.final()]);
    } catch (cause) {
      throw new IdempotencyStoreUnavailableException(
        `What is stored for this idempotency key cannot be decrypted with the encryption key "${keyId}": it was changed, moved, or encrypted with another one of that name.`,
        { cause },
      );
    }
  }

  private keyOf(keyId: string): Buffer {
    const key = this.keys.get(keyId);
    if (key === undefined) {
      throw new IdempotencyStoreUnavailableException(
        `What is stored for this idempotency key is encrypted with the key "${keyId}", which is not among the \`encryption.keys\` of this instance.`,
      );
    }
    return key;
  }
}

/** Bytes, or the base64 of them. */
export function keyBytes(key: string | Uint8Array): Buffer {
  return typeof key === 'string' ? Buffer.from(key, 'base64') : Buffer.from(key);
}
