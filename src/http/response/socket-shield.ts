import type { Socket } from 'node:net';

const shields = new WeakMap<Socket, Socket>();

/**
 * The request's socket as the framework may see it while the response is held: it never closes. NestJS cancels a
 * handler's Observable and destroys its streams when the socket does.
 */
export function shieldOf(socket: Socket): Socket {
  let shield = shields.get(socket);
  if (shield === undefined) {
    const deaf =
      (listen: (event: string, listener: () => void) => Socket) =>
      (event: string, listener: () => void): Socket =>
        event === 'close' ? socket : listen.call(socket, event, listener);
    const pretended = new Map<PropertyKey, unknown>([
      ['destroyed', false],
      ['on', deaf(socket.on)],
      ['once', deaf(socket.once)],
      ['addListener', deaf(socket.addListener)],
    ]);
    // Not an object that inherits from the socket: V8 is slow with whatever is the prototype of another.
    shield = new Proxy(socket, {
      get: (_, name): unknown => (pretended.has(name) ? pretended.get(name) : Reflect.get(socket, name)),
    });
    shields.set(socket, shield); // one a connection, whatever the number of its requests
  }
  return shield;
}
