import type { IncomingMessage, ServerResponse } from 'node:http';

/** For trying things out: the connection breaks where the header `X-Cut-Network` says, as it does in trains and lifts. */
export function cutNetwork(request: IncomingMessage, _: ServerResponse, next: () => void): void {
  const { socket } = request;
  switch (request.headers['x-cut-network']) {
    case 'before':
      socket.destroy();
      return;
    case 'after':
      // All is committed when the first byte of the answer is sent.
      socket.write = () => {
        socket.destroy();
        return false;
      };
  }
  next();
}
