/** Global set-up left the function here: it runs in this very process, but the two share no modules. */
export default async function globalTeardown(): Promise<void> {
  await (globalThis as { stopTestServer?: () => Promise<void> }).stopTestServer?.();
}
