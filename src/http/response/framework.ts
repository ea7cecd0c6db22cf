import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';

/** What tells Fastify's wrapper from Express' extension of Node's request, and where each keeps its route. */
export interface FrameworkRequest {
  raw?: IncomingMessage;
  routeOptions?: { url?: string; handler(request: unknown, reply: unknown): unknown };
  /** Where the router is mounted. */
  baseUrl?: string;
  route?: { path?: unknown; dispatch(request: unknown, response: unknown, done: (error?: unknown) => void): void };
  next?(error?: unknown): void;
}

export interface FrameworkResponse {
  raw?: ServerResponse;
  getHeader?(name: string): unknown;
  getHeaders?(): OutgoingHttpHeaders;
  removeHeader?(name: string): unknown;
  send?(payload: unknown): unknown;
  /** Of a view engine's plugin, for `@Render()`. */
  view?: unknown;
}

/** The route's path as the framework's router has it, `/payments/:id`; nothing where it has no single one. */
export function routePathOf({ routeOptions, route, baseUrl = '' }: FrameworkRequest): string | undefined {
  return routeOptions?.url ?? (typeof route?.path === 'string' ? baseUrl + route.path : undefined);
}

/**
 * Runs the route as the framework's router did. An error that gets past the exception filters goes where the framework
 * would have it.
 */
export function dispatchAgain(request: FrameworkRequest, response: FrameworkResponse): void {
  if (request.routeOptions !== undefined) {
    Promise.resolve(request.routeOptions.handler(request, response)).catch((error: unknown) => response.send?.(error));
  } else {
    request.route?.dispatch(request, response, (error) => request.next?.(error));
  }
}
