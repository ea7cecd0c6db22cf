const LAST_RESORT = 'or give @Idempotent() a `fingerprint` resolver that returns what identifies the request';

/**
 * The body cannot be read when the fingerprint is taken. It must not pass as an empty body: then every payload would
 * have the same fingerprint.
 */
export class UnreadBodyError extends Error {
  override readonly name = 'UnreadBodyError';

  constructor(
    message: string,
    options?: { cause?: unknown },
    /** The media type, where it was the client that chose one which nothing reads; else the application is mistaken. */
    readonly unsupportedMediaType?: string,
  ) {
    super(message, options);
  }

  /** The bytes are still on the wire, or somebody else is streaming them. */
  static notParsed(mediaType: string): UnreadBodyError {
    return new UnreadBodyError(
      `Nobody has read the body of this request (${mediaType || 'no Content-Type'}), so it has no fingerprint. ` +
        'Move @UseInterceptors(FileInterceptor(...)) below @Idempotent(), so that the upload is read first, ' +
        'or register a body parser for this media type (@fastify/multipart with `attachFieldsToBody: true`), ' +
        `${LAST_RESORT}.`,
      undefined,
      mediaType.startsWith('multipart/') ? undefined : mediaType, // an upload that comes too late for the fingerprint
    );
  }

  /** Somebody has read the bytes and kept them for himself. */
  static notKept(mediaType: string): UnreadBodyError {
    return new UnreadBodyError(
      `The body of this request (${mediaType || 'no Content-Type'}) was read, but is not in \`request.body\`, ` +
        `so it has no fingerprint. Let the parser put it there, ${LAST_RESORT}.`,
      undefined,
      mediaType,
    );
  }

  /** A storage engine put the file where only the application can find it. */
  static fileNotReadable(fieldName: string, cause?: unknown): UnreadBodyError {
    return new UnreadBodyError(
      `The content of the uploaded file ${JSON.stringify(fieldName)} is neither in memory nor in a readable file, ` +
        `so it has no fingerprint. Use memoryStorage() or diskStorage(), ${LAST_RESORT}.`,
      { cause },
    );
  }
}
