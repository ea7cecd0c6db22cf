import type { ServerResponse } from 'node:http';
import { Logger } from '@nestjs/common';

const logger = new Logger('Idempotency');

/** Sends `first` and then what `rest` brings, no faster than the client takes it, whatever is put on the response next. */
export function sendInParts(response: ServerResponse, first: Buffer, rest: AsyncIterator<Buffer>): void {
  // Node's own, or what middleware has put in their place.
  const { write, end } = response;
  response.writeHead(response.statusCode);
  const isTaken = (part: Buffer): boolean => (write as (part: Buffer) => boolean).call(response, part);
  pour(response, first, rest, isTaken)
    .then((isWhole) => (isWhole ? (end as () => unknown).call(response) : undefined))
    .catch((error: unknown) => {
      logger.error('A stored body is not what its Content-Encoding says: its replay was broken off.', error);
      response.destroy(); // a part that looks like a whole would be worse
    });
}

/** @returns false where the client has gone away */
async function pour(
  response: ServerResponse,
  first: Buffer,
  rest: AsyncIterator<Buffer>,
  isTaken: (part: Buffer) => boolean,
): Promise<boolean> {
  const { socket } = response.req;
  let isGone = response.destroyed || socket.destroyed;
  let wake = (): void => undefined;
  const gone = (): void => {
    isGone = true;
    wake();
  };
  response.on('drain', () => wake());
  response.once('close', gone);
  socket.once('close', gone); // a response that waits behind another one of its connection is not told
  try {
    for (let next: IteratorResult<Buffer> = { value: first }; next.done !== true; next = await rest.next()) {
      if (isGone) {
        return false;
      }
      if (!isTaken(next.value)) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
    return true;
  } finally {
    socket.off('close', gone);
    await rest.return?.();
  }
}
