import type { Framing, Message } from '../faults/proxy.js';

/** HTTP/1.1 as the fault proxy cuts it: a request is a message, and waits for one answer. */
export const HTTP: Framing<'request'> = {
  messages() {
    let pending: Buffer = Buffer.alloc(0);
    return {
      push(chunk) {
        pending = Buffer.concat([pending, chunk]);
        const messages: Message<'request'>[] = [];
        for (let end = endOfMessage(pending); end !== undefined; end = endOfMessage(pending)) {
          messages.push({ bytes: pending.subarray(0, end), phase: 'request' });
          pending = pending.subarray(end);
        }
        return messages;
      },
    };
  },
  isCompleteAnswer: (bytes) => endOfMessage(bytes) === bytes.length,
};

/** Undefined while it has not come. */
function endOfMessage(bytes: Buffer): number | undefined {
  const headEnd = bytes.indexOf('\r\n\r\n');
  if (headEnd < 0) return undefined;
  const head = bytes.toString('latin1', 0, headEnd);
  const start = headEnd + 4;
  const hasNoBody = /^HTTP\/1\.1 (?:204|304) /.test(head);
  if (/^transfer-encoding: *chunked$/im.test(head) && !hasNoBody) return endOfChunks(bytes, start);
  const length = hasNoBody ? 0 : Number(/^content-length: *(\d+)$/im.exec(head)?.[1] ?? 0);
  return bytes.length < start + length ? undefined : start + length;
}

function endOfChunks(bytes: Buffer, start: number): number | undefined {
  const lineEnd = bytes.indexOf('\r\n', start);
  if (lineEnd < 0) return undefined;
  const size = Number.parseInt(bytes.toString('latin1', start, lineEnd), 16);
  const end = lineEnd + 2 + size + 2;
  if (bytes.length < end) return undefined;
  return size === 0 ? end : endOfChunks(bytes, end);
}
