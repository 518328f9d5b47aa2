/**
 * Errors as the HTTP door answers them: problem documents (RFC 9457) with a stable `code`, and the SCSI answer first
 * where there is one.
 */

import type { ErrorCode } from "../errors.ts";

/** Codes of faults that only HTTP knows. */
export type HttpCode =
  | "body-too-slow"
  | "digest-mismatch"
  | "incomplete-body"
  | "internal-error"
  | "invalid-request"
  | "method-not-allowed"
  | "not-found"
  | "origin-not-allowed"
  | "range-not-satisfiable"
  | "too-many-subscribers"
  | "too-many-websockets"
  | "unauthorized"
  | "unsupported-media-type";

/** How a code is answered. */
export interface HttpAnswer {
  readonly status:
    | 400
    | 401
    | 403
    | 404
    | 405
    | 408
    | 409
    | 413
    | 415
    | 416
    | 422
    | 429
    | 500
    | 503
    | 504
    | 507;
  readonly title: string;
  /** When to try again: for faults that pass. */
  readonly retryAfterSeconds?: number;
}

/** One row for every code; it does not compile when one is missing. */
export const HTTP_ANSWERS: Readonly<Record<ErrorCode | HttpCode, HttpAnswer>> = {
  "ambiguous-name": { status: 409, title: "Several pools have this name" },
  "audit-record-not-found": { status: 404, title: "No such audit record" },
  "body-too-slow": { status: 408, title: "The request's body comes too slowly" },
  "cache-full": { status: 503, title: "The cache is full", retryAfterSeconds: 1 },
  "cdb-field-invalid": { status: 422, title: "Invalid field in CDB" },
  "cdb-length-invalid": { status: 422, title: "The CDB's length disagrees with its operation code" },
  "cdb-opcode-unknown": { status: 422, title: "Unknown operation code in CDB" },
  "client-not-found": { status: 404, title: "No such client" },
  "copy-not-found": { status: 404, title: "No such copy" },
  "data-corrupt": { status: 500, title: "The data are not as they were written" },
  "database-unavailable": { status: 503, title: "The database cannot be reached", retryAfterSeconds: 1 },
  "device-not-found": { status: 404, title: "No such device" },
  "digest-mismatch": { status: 400, title: "The body is not what its digest tells" },
  "disk-full": { status: 507, title: "The database's disk is full", retryAfterSeconds: 10 },
  "forbidden": { status: 403, title: "The client may not do this" },
  "held": { status: 409, title: "The snapshot is held" },
  "idempotency-key-in-progress": {
    status: 409,
    title: "The first request with this key is in progress",
    retryAfterSeconds: 1,
  },
  "idempotency-key-reused": { status: 422, title: "The key was used for another request" },
  "in-use": { status: 409, title: "The snapshot is being copied" },
  "incomplete-body": { status: 400, title: "The request's body ended early" },
  "insufficient-space": { status: 507, title: "The pool is out of segments" },
  "internal-error": { status: 500, title: "Internal error" },
  "invalid-argument": { status: 422, title: "Invalid value" },
  "invalid-request": { status: 400, title: "Invalid request" },
  "lba-out-of-range": { status: 422, title: "Logical block address out of range" },
  "method-not-allowed": { status: 405, title: "Method not allowed" },
  "name-taken": { status: 409, title: "The name is taken" },
  "not-found": { status: 404, title: "No such resource" },
  "not-whole-blocks": { status: 422, title: "Not a whole number of blocks" },
  "origin-not-allowed": { status: 403, title: "A page of this origin may not do this" },
  "outcome-unknown": { status: 503, title: "The outcome is unknown" },
  "outside-snapshot": { status: 422, title: "Outside of what the snapshot covers" },
  "parameter-list-invalid": { status: 422, title: "Invalid field in parameter list" },
  "parameter-list-length-invalid": { status: 422, title: "Parameter list length error" },
  "pool-not-found": { status: 404, title: "No such pool" },
  "range-not-satisfiable": { status: 416, title: "No such range" },
  "rate-limited": { status: 429, title: "The client comes too fast" },
  "request-too-large": { status: 413, title: "The request is too large" },
  "schedule-not-found": { status: 404, title: "No such schedule" },
  "scrub-not-found": { status: 404, title: "No such scrub" },
  "snapshot-not-found": { status: 404, title: "No such snapshot" },
  "stream-invalid": { status: 422, title: "The stream is not as its format has it" },
  "timed-out": { status: 504, title: "Timed out" },
  "too-busy": { status: 503, title: "Too much is under way", retryAfterSeconds: 1 },
  "too-many-at-once": { status: 429, title: "Too much of one client at a time", retryAfterSeconds: 1 },
  "too-many-snapshots": { status: 409, title: "The volume has as many snapshots as it may" },
  "too-many-subscribers": { status: 503, title: "Too many subscribers", retryAfterSeconds: 10 },
  "too-many-websockets": { status: 429, title: "Too many WebSockets of one client", retryAfterSeconds: 10 },
  "unauthorized": { status: 401, title: "A valid token is required" },
  "unrelated-snapshots": { status: 422, title: "The snapshots are not of one line" },
  "unsupported-media-type": { status: 415, title: "Unsupported media type" },
  "volume-changed": { status: 409, title: "The volume was written meanwhile" },
  "volume-not-found": { status: 404, title: "No such volume" },
};

/** What is wrong with one part of a request. */
export interface FieldProblem {
  readonly path: string;
  readonly message: string;
}

/** A fault that the door itself finds. `detail` is safe to show. */
export class HttpError extends Error {
  override readonly name = "HttpError";

  constructor(
    readonly code: HttpCode,
    readonly detail: string,
    readonly extra: { readonly problems?: FieldProblem[]; readonly headers?: Record<string, string> } = {},
  ) {
    super(detail);
  }
}
