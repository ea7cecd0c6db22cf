import type { ExecutionContext } from '@nestjs/common';
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { REPLAYED_HEADER } from '../idempotency.constants.js';
import type { IdempotencyException } from '../idempotency.exceptions.js';
import {
  acceptableTo,
  applyHeaders,
  baselineOf,
  type HeaderBaseline,
  type HeaderLine,
  resetHeaders,
} from './recorded-response.js';
import { ignoreWrites } from './response-recorder.js';

/** What tells Fastify's wrapper from Express' extension of Node's request, and where each keeps its route. */
interface FrameworkRequest {
  raw?: IncomingMessage;
  routeOptions?: { handler(request: unknown, reply: unknown): unknown };
  route?: { dispatch(request: unknown, response: unknown, done: () => void): void };
}

interface FrameworkResponse {
  raw?: ServerResponse;
  getHeaders?(): OutgoingHttpHeaders;
  removeHeader?(name: string): unknown;
}

const attempts = new WeakMap<IncomingMessage, number>();

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
    resetHeaders(response, baseline);
    if (frameworkResponse.raw !== undefined) {
      for (const name of Object.keys(frameworkResponse.getHeaders?.() ?? {})) {
        if (!baseline.has(name)) {
          frameworkResponse.removeHeader?.(name);
        }
      }
    }
  }

  /** How often the route has been run for this request; 1 the first time. */
  get attempt(): number {
    return attempts.get(this.request) ?? 1;
  }

  /**
   * Runs the route for the same request again, guards and interceptors included, as the framework's router did.
   * Middleware is not run again: what it has read of the request and set on it is still there.
   */
  runRouteAgain(): void {
    const { frameworkRequest, frameworkResponse } = this;
    attempts.set(this.request, this.attempt + 1);
    if (frameworkRequest.routeOptions !== undefined) {
      void frameworkRequest.routeOptions.handler(frameworkRequest, frameworkResponse);
    } else {
      frameworkRequest.route?.dispatch(frameworkRequest, frameworkResponse, () => undefined);
    }
  }

  /** Sends a recorded response to this request. What is written to the response afterwards goes nowhere. */
  replay(recorded: { status: number; headers: HeaderLine[]; body: Buffer }, baseline: HeaderBaseline): void {
    const { response } = this;
    const { headers, body } = acceptableTo(this.request.headers, recorded);
    resetHeaders(response, baseline);
    applyHeaders(response, headers);
    response.setHeader(REPLAYED_HEADER, 'true');
    response.statusCode = recorded.status;
    response.end(body);
    ignoreWrites(response);
  }

  /** Sends a problem document without the help of an exception filter, when the framework has already answered. */
  sendProblem(exception: IdempotencyException, baseline: HeaderBaseline): void {
    const { response } = this;
    resetHeaders(response, baseline);
    this.announceProblem(exception);
    response.statusCode = exception.getStatus();
    response.end(JSON.stringify(exception.getResponse()));
  }

  /** Puts the headers of a problem onto the response, before an exception filter writes its body. */
  announceProblem(exception: IdempotencyException): void {
    const { response } = this;
    if (response.headersSent) {
      return;
    }
    response.setHeader('Content-Type', 'application/problem+json; charset=utf-8');
    response.appendHeader('Link', `<${exception.getResponse().type}>; rel="describedby"`);
    if (exception.retryAfterSeconds !== undefined) {
      response.setHeader('Retry-After', String(exception.retryAfterSeconds));
    }
  }
}
