/** What the responses of Express and Fastify have in common, for `@Res({ passthrough: true })`. */
export interface HeaderWriter {
  header(name: string, value: string): unknown;
}
