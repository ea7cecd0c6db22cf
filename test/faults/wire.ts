/** What a batch of messages from the application is for, as far as PostgreSQL's protocol shows it (manual, 54.7). */
export type Phase = 'claim' | 'handler' | 'record' | 'rollback' | 'renewal' | 'step';

export interface Batch {
  bytes: Buffer;
  phase: Phase | undefined;
}

const CODE = { bind: 0x42, query: 0x51, sync: 0x53, ready: 0x5a } as const;

/** Statements that end a transaction of the library, or are one. */
const ENDS: readonly (readonly [id: string, phase: Phase])[] = [
  ['insert', 'record'],
  ['lease_record', 'record'],
  ['rollback', 'rollback'],
  ['lease_release', 'rollback'],
  ['lease_withdraw', 'rollback'],
  ['lease_renew', 'renewal'],
  ['lease_step', 'step'],
];

/** Cuts what an application sends into batches: all messages up to the point where it waits for an answer. */
export class BatchReader {
  private pending: Buffer = Buffer.alloc(0);
  private started = false;
  private claimed = false;

  push(chunk: Buffer): Batch[] {
    this.pending = this.pending.length === 0 ? chunk : Buffer.concat([this.pending, chunk]);
    const batches: Batch[] = [];
    let position = 0;
    let batchStart = 0;
    let statements: string[] = [];
    for (;;) {
      // The first message of a connection has no type.
      const lengthAt = this.started ? position + 1 : position;
      if (this.pending.length < lengthAt + 4) {
        break;
      }
      const end = lengthAt + this.pending.readUInt32BE(lengthAt);
      if (this.pending.length < end) {
        break;
      }
      const code = this.started ? this.pending[position]! : 0;
      if (code === CODE.bind) {
        statements.push(this.boundStatement(lengthAt + 4));
      }
      const isExtended =
        code !== 0 && code !== CODE.query && code !== CODE.sync && 'PBDECFH'.includes(String.fromCharCode(code));
      if (!isExtended) {
        batches.push({
          bytes: this.pending.subarray(batchStart, end),
          phase: code === CODE.query || code === CODE.sync ? this.phaseOf(statements) : undefined,
        });
        batchStart = end;
        statements = [];
      }
      this.started = true;
      position = end;
    }
    this.pending = this.pending.subarray(batchStart);
    return batches;
  }

  private boundStatement(at: number): string {
    const portalEnd = this.pending.indexOf(0, at);
    return this.pending.toString('latin1', portalEnd + 1, this.pending.indexOf(0, portalEnd + 1));
  }

  /** The library's statements tell by their names; between a claim and its end all else is the handler's. */
  private phaseOf(statements: string[]): Phase | undefined {
    const runs = (id: string): boolean => statements.some((name) => name.endsWith(`_${id}`));
    if (runs('look_up')) {
      // Otherwise a mere look, without a transaction, or a claim by lease, which is committed with it.
      this.claimed = runs('claim') && !runs('lease_claim');
      return 'claim';
    }
    if (runs('lease_limits')) {
      this.claimed = true; // the transaction of a step
      return 'handler';
    }
    const end = ENDS.find(([id]) => runs(id));
    if (end !== undefined) {
      this.claimed = false;
      return end[1];
    }
    return this.claimed ? 'handler' : undefined;
  }
}

/** The process id that a CancelRequest names: the only message of its connection, with a code in place of a version. */
export function processToCancel(bytes: Buffer): number | undefined {
  const isCancelRequest = bytes.length === 16 && bytes.readUInt32BE(4) === CANCEL_REQUEST_CODE;
  return isCancelRequest ? bytes.readUInt32BE(8) : undefined;
}

const CANCEL_REQUEST_CODE = 80_877_102;
const BACKEND_KEY_DATA = 0x4b;

/** Finds, in what a server answers to a new connection, the process id that serves it. */
export class ProcessIdReader {
  private pending: Buffer | undefined = Buffer.alloc(0);

  /** Undefined until it has come, and ever after. */
  push(chunk: Buffer): number | undefined {
    if (this.pending === undefined) {
      return undefined;
    }
    this.pending = Buffer.concat([this.pending, chunk]);
    for (let at = 0; at + 9 <= this.pending.length; at += 1 + this.pending.readUInt32BE(at + 1)) {
      if (this.pending[at] === BACKEND_KEY_DATA) {
        const processId = this.pending.readUInt32BE(at + 5);
        this.pending = undefined;
        return processId;
      }
    }
    return undefined;
  }
}

/** True when the answer to a batch is complete: its last message is ReadyForQuery. */
export function isCompleteAnswer(bytes: Buffer): boolean {
  let position = 0;
  let code = 0;
  while (position + 5 <= bytes.length) {
    code = bytes[position]!;
    position += 1 + bytes.readUInt32BE(position + 1);
  }
  return position === bytes.length && code === CODE.ready;
}
