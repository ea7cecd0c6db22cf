import { isDeepStrictEqual } from 'node:util';

/** What supertest answers with. */
export interface SupertestResponse {
  status: number;
  headers: object;
  /** Of a text; other bodies are a Buffer in `body`. */
  text?: string;
  body?: unknown;
}

/** What Fastify's `inject()` answers with. */
export interface InjectedResponse {
  statusCode: number;
  headers: object;
  rawPayload: Uint8Array;
}

/** What `fetch()` answers with. */
export interface FetchedResponse {
  status: number;
  headers: { get(name: string): string | null; forEach(visit: (value: string, name: string) => void): void };
  arrayBuffer(): Promise<ArrayBuffer>;
}

export type ClientResponse = SupertestResponse | InjectedResponse | FetchedResponse;

/** A response, whatever client it came by. */
export interface Answer {
  readonly status: number;
  /** By lower-case name. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

export async function answerOf(response: ClientResponse): Promise<Answer> {
  if (typeof response !== 'object' || response === null) {
    throw new TypeError(`\`send\` must give the response of supertest, inject() or fetch(), not ${String(response)}.`);
  }
  if ('arrayBuffer' in response) {
    const headers = new Map<string, string>();
    response.headers.forEach((value, name) => headers.set(name.toLowerCase(), value));
    return { status: response.status, headers, body: Buffer.from(await response.arrayBuffer()) };
  }
  const headers = new Map(Object.entries(response.headers).map(([name, value]) => [name.toLowerCase(), String(value)]));
  return 'rawPayload' in response
    ? { status: response.statusCode, headers, body: Buffer.from(response.rawPayload) }
    : { status: response.status, headers, body: bytesOf(response) };
}

function bytesOf({ text, body }: SupertestResponse): Buffer {
  if (typeof text === 'string') {
    return Buffer.from(text);
  }
  return body instanceof Uint8Array ? Buffer.from(body) : Buffer.alloc(0);
}

/** Enough of it to know it by. */
export function described({ status, body }: Answer): string {
  const text = body.toString();
  return `${status} ${text.length > 300 ? `${text.slice(0, 300)}…` : text}`.trim();
}

/** The first difference in what a replay has to repeat. */
export function difference(one: Answer, other: Answer, headers: readonly string[]): Difference | undefined {
  const differences = [
    { what: 'status', expected: one.status, actual: other.status },
    ...headers.map((name) => ({
      what: `header ${name}`,
      expected: one.headers.get(name.toLowerCase()),
      actual: other.headers.get(name.toLowerCase()),
    })),
    { what: 'body', expected: one.body.toString('latin1'), actual: other.body.toString('latin1') },
  ];
  return differences.find(({ expected, actual }) => !isDeepStrictEqual(expected, actual));
}

export interface Difference {
  what: string;
  expected: unknown;
  actual: unknown;
}
