import type { ExecutionContext } from '@nestjs/common';
import type { IncomingMessage, OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { REPLAYED_HEADER } from '../idempotency.constants.js';
import type { IdempotencyException } from '../idempotency.exceptions.js';
import {
  acceptableTo,
  applyHeaders,
  baselineOf,
  changedNames,
  type HeaderBaseline,
  type HeaderLine,
  resetHeaders,
} from './recorded-response.js';
import { ignoreWrites } from './response-recorder.js';

/** What tells Fastify's wrapper from Express' extension of Node's request, and where each keeps its route. */
interface FrameworkRequest {
  raw?: IncomingMessage;
  routeOptions?: { handler(request: unknown, reply: unknown): unknown };
  route?: { dispatch(request: unknown, response: unknown, done: (error?: unknown) => void): void };
  next?(error?: unknown): void;
}

interface FrameworkResponse {
  raw?: ServerResponse;
  getHeaders?(): OutgoingHttpHeaders;
  removeHeader?(name: string): unknown;
  send?(payload: unknown): unknown;
}

const attempts = new WeakMap<IncomingMessage, number>();

/** The problem that was announced last on a response, and how to take its headers back. */
const announced = new WeakMap<ServerResponse, { status: number; withdraw: () => void }>();

/** Node's own request and response, below the framework's: Fastify wraps them, Express extends them. */
export class HttpExchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  private readonly frameworkRequest: FrameworkRequest;
  private readonly frameworkResponse: FrameworkResponse;

  constructor(context: ExecutionContext) {
    const http = context.switchToHttp();
    const request = http.getRequest<IncomingMessage & FrameworkRequest>();
    const response = http.getResponse<ServerResponse & FrameworkResponse>();
    this.request = request.raw ?? request;
    this.response = response.raw ?? response;
    this.frameworkRequest = request;
    this.frameworkResponse = response;
  }

  /** @throws Error where the response cannot be held back until COMMIT */
  assertHoldable(): void {
    if (this.request.httpVersionMajor > 1) {
      throw new Error(
        '@Idempotent() cannot hold a response over HTTP/2 back. Let a proxy in front of the application speak HTTP/2.',
      );
    }
    if (this.response.headersSent) {
      throw new Error(
        'The response was sent before the handler ran, so it cannot wait for COMMIT. Answer from the handler of an @Idempotent() route.',
      );
    }
  }

  /** The headers the response has so far; Fastify's reply keeps its own until it sends. */
  baseline(): HeaderBaseline {
    const { response, frameworkResponse } = this;
    return baselineOf(
      response.getHeaders(),
      frameworkResponse.raw === undefined ? {} : (frameworkResponse.getHeaders?.() ?? {}),
    );
  }

  /** Takes the headers back to the baseline, also where Fastify's reply keeps them. */
  resetTo(baseline: HeaderBaseline): void {
    const { response, frameworkResponse } = this;
    withdrawProblem(response);
    if (frameworkResponse.raw !== undefined) {
      for (const name of changedNames(frameworkResponse.getHeaders?.() ?? {}, baseline)) {
        frameworkResponse.removeHeader?.(name);
      }
    }
    resetHeaders(response, baseline); // from here what the reply had before goes out, too
  }

  /** How often the route has been run for this request; 1 the first time. */
  get attempt(): number {
    return attempts.get(this.request) ?? 1;
  }

  /**
   * Runs the route for the same request again, guards and interceptors included, as the framework's router did.
   * Middleware is not run again: what it has read of the request and set on it is still there. An error that gets past
   * the exception filters goes where the framework would have it.
   */
  runRouteAgain(): void {
    const { frameworkRequest, frameworkResponse } = this;
    attempts.set(this.request, this.attempt + 1);
    if (frameworkRequest.routeOptions !== undefined) {
      Promise.resolve(frameworkRequest.routeOptions.handler(frameworkRequest, frameworkResponse)).catch(
        (error: unknown) => frameworkResponse.send?.(error),
      );
    } else {
      frameworkRequest.route?.dispatch(frameworkRequest, frameworkResponse, (error) => frameworkRequest.next?.(error));
    }
  }

  /**
   * Sends a recorded response to this request. What is written to the response afterwards goes nowhere.
   *
   * @param baseline what to take the headers back to first, where a handler may have changed them
   */
  replay(recorded: { status: number; headers: HeaderLine[]; body: Buffer }, baseline?: HeaderBaseline): void {
    const { response } = this;
    const { headers, body } = acceptableTo(this.request.headers, recorded);
    withdrawProblem(response);
    if (baseline !== undefined || this.frameworkResponse.raw !== undefined) {
      resetHeaders(response, baseline ?? this.baseline()); // from here what Fastify's reply had before goes out, too
    }
    applyHeaders(response, headers);
    response.setHeader(REPLAYED_HEADER, 'true');
    response.statusCode = recorded.status;
    endWith(response, body);
    ignoreWrites(response);
  }

  /** Sends a problem document without the help of an exception filter, when the framework has already answered. */
  sendProblem(exception: IdempotencyException, baseline: HeaderBaseline): void {
    const { response } = this;
    withdrawProblem(response);
    resetHeaders(response, baseline);
    this.announceProblem(exception);
    response.statusCode = exception.getStatus();
    endWith(response, Buffer.from(JSON.stringify(exception.getResponse())));
  }

  /** Has the headers of a problem go out with it, whoever writes its body: mostly an exception filter. */
  announceProblem(exception: IdempotencyException): void {
    const { response } = this;
    if (response.headersSent) {
      return;
    }
    withdrawProblem(response);
    const { retryAfterSeconds } = exception;
    const link = `<${exception.getResponse().type}>; rel="describedby"`;
    const links = response.getHeader('Link');
    const withdraw = setHeadersOnStatus(response, exception.getStatus(), [
      ['Content-Type', 'application/problem+json; charset=utf-8'],
      ['Link', links === undefined ? link : [links, link].flat().map(String)],
      ...(retryAfterSeconds === undefined ? [] : [['Retry-After', String(retryAfterSeconds)] as const]),
    ]);
    announced.set(response, { status: exception.getStatus(), withdraw });
  }

  /** Whether an answer of `status` is the library's own problem rather than the handler's or the application's. */
  isProblem(status: number): boolean {
    return announced.get(this.response)?.status === status;
  }

  /** For a request that is handled anew: an outer interceptor may try again after a problem. */
  withdrawProblem(): void {
    withdrawProblem(this.response);
  }
}

function withdrawProblem(response: ServerResponse): void {
  announced.get(response)?.withdraw();
  announced.delete(response);
}

/**
 * The headers are on the response while its status is `expected`: whoever answers sets the status first, and an outer
 * interceptor may catch a problem and answer with something else. Headers that others have set meanwhile stay.
 */
function setHeadersOnStatus(
  response: ServerResponse,
  expected: number,
  headers: readonly (readonly [name: string, value: string | string[]])[],
): () => void {
  const before = headers.map(([name]) => response.getHeader(name));
  let { statusCode } = response;
  let shown = false;
  const show = (wanted: boolean): void => {
    if (shown === wanted || response.headersSent) {
      return;
    }
    shown = wanted;
    headers.forEach(([name, value], index) => {
      const [from, to] = wanted ? [before[index], value] : [value, before[index]];
      if (String(response.getHeader(name)) === String(from)) {
        setOrRemove(response, name, to);
      }
    });
  };
  const whenSet = (status: number): void => {
    statusCode = status;
    show(status === expected);
  };
  whenSet(statusCode);
  Object.defineProperty(response, 'statusCode', { get: () => statusCode, set: whenSet, configurable: true });
  return () => {
    show(false);
    Object.defineProperty(response, 'statusCode', { value: statusCode, writable: true, configurable: true });
  };
}

function setOrRemove(response: ServerResponse, name: string, value: OutgoingHttpHeader | undefined): void {
  if (value === undefined) {
    response.removeHeader(name);
  } else {
    response.setHeader(name, value);
  }
}

/**
 * Ends the response. Where middleware has put an `end` of its own in place that gets to Node's only later, when writes
 * are ignored already, Node must still find the `writeHead` of now.
 */
function endWith(response: ServerResponse, body: Buffer): void {
  const { writeHead, statusCode } = response;
  response.end(body);
  if (!response.headersSent) {
    Object.assign(response, { _implicitHeader: () => writeHead.call(response, statusCode) });
  }
}
