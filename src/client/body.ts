/** A request's method, address and body, as one short text: the same for the same, another for another. */
export async function fingerprint(method: string, url: string, body: unknown): Promise<string> {
  return hash(JSON.stringify([method, url, await readable(await body)]));
}

async function readable(body: unknown): Promise<unknown> {
  if (typeof body === 'string') {
    return body;
  }
  if (body instanceof FormData) {
    // Its bytes have a boundary, which is another each time.
    return Promise.all([...body].map(async ([name, value]) => [name, (value as File).name, await readable(value)]));
  }
  return [...new Uint8Array(await new Response(body as ConstructorParameters<typeof Response>[0]).arrayBuffer())];
}

/** 96 bits: nobody attacks their own client, and `crypto.subtle` is not everywhere. */
export function hash(text: string): string {
  return [5, 7, 11]
    .map((seed) => {
      const factor = seed ** 9;
      let state = seed;
      for (let at = 0; at < text.length; at++) {
        state = Math.imul(((state << 13) | (state >>> 19)) ^ text.charCodeAt(at), factor);
      }
      return (state >>> 0).toString(36);
    })
    .join('-');
}
