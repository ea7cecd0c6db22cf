/** The record's INSERT met a live row of the same key: another request recorded it first. */
export class KeyAlreadyRecordedError extends Error {}

/** The transaction at the record is not the one of the claim: the handler ended it by a statement of its own. */
export class TransactionEndedByHandlerError extends Error {}

/** The table of keys refused the row, by what others have put on it, or for want of a partition. */
export class RecordRefusedError extends Error {}

/** Nothing can be recorded here: a standby, or a server that was told to take no writes. */
export class ReadOnlyServerError extends Error {
  constructor() {
    super('The server takes no writes: it is a standby, or default_transaction_read_only is on.');
  }
}

/** The holder's fencing token is no longer the key's: another attempt has taken over, or the key has its response. */
export class FencedOffError extends Error {}

/** A claim by lease met the lock of a request in transaction mode, where that is told by an error. */
export class KeyInFlightError extends Error {}
