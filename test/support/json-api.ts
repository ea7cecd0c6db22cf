import { rawRequest, type RawResponse } from './raw-http.js';

export type Json = Record<string, unknown>;

export interface Answer {
  status: number;
  json: Json;
  replayed: boolean;
  location: string | undefined;
  response: RawResponse;
}

/** Sends a body as JSON, or a string as it is, and reads the answer as JSON, where there is any. */
export async function send(
  port: number,
  method: string,
  path: string,
  key?: string,
  body?: object | string,
  type = 'application/json',
): Promise<Answer> {
  const response = await rawRequest(port, {
    method,
    path,
    headers: [...(body ? [['Content-Type', type] as const] : []), ...(key ? [['Idempotency-Key', key] as const] : [])],
    body: typeof body === 'object' ? JSON.stringify(body) : body,
  });
  const value = (name: string) =>
    response.headerLines.find((line) => line.toLowerCase().startsWith(`${name}: `))?.slice(name.length + 2);
  return {
    status: response.status,
    json: response.body.length === 0 ? {} : (JSON.parse(response.body.toString()) as Json),
    replayed: value('idempotency-replayed') === 'true',
    location: value('location'),
    response,
  };
}
