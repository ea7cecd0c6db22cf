/** A header line; `null` for one that was there before the handler ran and was taken away by it. */
export type HeaderLine = [name: string, value: string | null];

/** All that is kept of a response: neither its reason phrase nor its trailers. */
export interface RecordableResponse {
  status: number;
  headers: HeaderLine[];
  /** `null` where it is too large to keep. */
  body: Buffer | null;
  bodyBytes: number;
}

/** A response that can be sent again. */
export interface ReplayableResponse {
  claimId: string;
  createdAt: Date;
  expiresAt: Date;
  /** `traceparent` of the request that was carried out. */
  traceContext?: string | undefined;
  status: number;
  headers: HeaderLine[];
  body: Buffer;
}

/** A recorded response, with what tells whose it is. */
export interface StoredResponse {
  claimId: string;
  fingerprint: Buffer;
  fingerprintVersion: number;
  status: number;
  headers: HeaderLine[];
  /** `null` where it was too large to keep. */
  body: Buffer | null;
  createdAt: Date;
  expiresAt: Date;
  traceContext?: string | undefined;
}
