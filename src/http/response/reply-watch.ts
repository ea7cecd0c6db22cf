import type { HttpServer } from '@nestjs/common';
import type { FrameworkResponse } from './framework.js';
import { HttpExchange } from './http-exchange.js';

type Reply = HttpServer['reply'];

const WATCHED = Symbol.for('nestjs-idempotency: replies are watched');

/**
 * Has NestJS send a problem by the media type that it has, whoever gives it its body. For the answer to an error NestJS'
 * adapters take any other type than `application/json` for a mistake: they replace it and warn. Express' of NestJS 11
 * does for every object, and each but the newest for one with a `statusCode`, as of a filter that catches everything.
 */
export function watchReplies(adapter: object | undefined): void {
  const owner = adapter && ownerOfReply(adapter);
  if (owner !== undefined && owner[WATCHED] === undefined) {
    const ordinary = owner.reply;
    const reply: Reply = function (this: HttpServer, response: FrameworkResponse, body: unknown, status?: number) {
      const exchange = HttpExchange.find(response);
      if (exchange?.announcesProblem === true && isDocument(body)) {
        if (status !== undefined) {
          this.status!(response, status);
        }
        if (exchange.showsProblemType) {
          return response.send!(body); // as the ordinary method does, but for its look at the type
        }
      }
      return ordinary.call(this, response, body, status);
    };
    Object.assign(owner, { [WATCHED]: true, reply });
  }
}

/** NestJS' own adapter below those that applications derive from it, which may have more to do. */
function ownerOfReply(adapter: object): (HttpServer & { [WATCHED]?: true }) | undefined {
  let owner: object | undefined;
  for (let each: object | null = adapter; each !== null; each = Object.getPrototypeOf(each) as object | null) {
    owner = Object.hasOwn(each, 'reply') ? each : owner;
  }
  return owner as HttpServer | undefined;
}

/** An object as it is written in code: no stream, no file, no error, which NestJS answers in other ways. */
function isDocument(body: unknown): boolean {
  return typeof body === 'object' && body !== null && Object.getPrototypeOf(body) === Object.prototype;
}
