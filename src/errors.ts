/**
 * What can go wrong in the storage system, as a closed list of codes.
 *
 * The domain throws nothing else on purpose. A code says what happened in storage terms; what a front door
 * answers for it (an HTTP status, SCSI sense data) is that door's own table, which does not compile when a code
 * is missing from it.
 */

/** Every code a {@linkcode StorageError} can carry. */
export const ERROR_CODES = [
  "ambiguous-name",
  "audit-record-not-found",
  "cache-full",
  "cdb-field-invalid",
  "cdb-length-invalid",
  "cdb-opcode-unknown",
  "client-not-found",
  "copy-not-found",
  "data-corrupt",
  "database-unavailable",
  "device-not-found",
  "disk-full",
  "forbidden",
  "held",
  "idempotency-key-in-progress",
  "idempotency-key-reused",
  "in-use",
  "insufficient-space",
  "invalid-argument",
  "lba-out-of-range",
  "name-taken",
  "not-whole-blocks",
  "outcome-unknown",
  "outside-snapshot",
  "parameter-list-invalid",
  "parameter-list-length-invalid",
  "pool-not-found",
  "rate-limited",
  "request-too-large",
  "schedule-not-found",
  "scrub-not-found",
  "snapshot-not-found",
  "stream-invalid",
  "timed-out",
  "too-busy",
  "too-many-at-once",
  "too-many-snapshots",
  "unrelated-snapshots",
  "volume-changed",
  "volume-not-found",
] as const;

/** One of the {@linkcode ERROR_CODES}. */
export type ErrorCode = typeof ERROR_CODES[number];

/** A request the storage system refuses or cannot carry out. `message` is safe to show to a client. */
export class StorageError extends Error {
  override readonly name = "StorageError";
  /** When to try again, where that is known better than by the code alone. */
  readonly retryAfterSeconds?: number;

  constructor(
    readonly code: ErrorCode,
    message: string,
    options: ErrorOptions & { readonly retryAfterSeconds?: number } = {},
  ) {
    super(message, options);
    if (options.retryAfterSeconds !== undefined) this.retryAfterSeconds = options.retryAfterSeconds;
  }
}
