/**
 * What PostgreSQL and postgres.js say when something fails: one table from their codes to what it means for whoever asked.
 *
 * Two questions are kept apart. What is a fault to a client, which {@linkcode findFault} answers by its code? And is the
 * connection gone, {@linkcode isConnectionLost}? A code of class 08 may come as an ordinary error of a session that lives on:
 * that is how one server tells that it cannot reach another.
 *
 * Source: PostgreSQL manual, appendix A (error codes).
 */

/**
 * What a fault of the database comes down to:
 * - `unreachable`: nobody is there, or nobody who may take it.
 * - `overdue`: a statement, or a wait, was ended for being too long.
 * - `conflict`: others were in the way. Nothing was committed, and the same may succeed at once.
 * - `overloaded`: it lacks memory, locks or connections.
 * - `full`: the disk that it lives on is.
 */
export type DatabaseFault = "unreachable" | "overdue" | "conflict" | "overloaded" | "full";

/** By code or class of codes; the longest that fits is meant. A code that is not here is a fault of the program. */
const FAULTS: Readonly<Record<string, DatabaseFault>> = {
  // Connection exceptions
  "08": "unreachable",
  // A standby, or a server that was told to take no writes
  "25006": "unreachable",
  // Idle in transaction, or a transaction, for too long: it was this process that stood still
  "25P03": "unreachable",
  "25P04": "unreachable",
  // Serialization failure, deadlock
  "40001": "conflict",
  "40P01": "conflict",
  // Insufficient resources
  "53": "overloaded",
  "53100": "full",
  "53300": "unreachable",
  // Lock timeout, and "nowait"
  "55P03": "overdue",
  // Cancelled: statement timeout, or by hand
  "57014": "overdue",
  // Shutdown, crash, starting up, database dropped, idle for too long
  "57P": "unreachable",
  // An input or output error of its disk
  "58030": "unreachable",
};

/**
 * Where PostgreSQL says that a standby has no unlogged tables. The code, of all features that there are not, says too little:
 * a plan whose columns have changed has it too.
 */
const STANDBY = { code: "0A000", routine: "get_relation_info" };

/** What the system and postgres.js call it when nobody answers, or whoever did is gone. */
const LOST_CODES = new Set([
  "CONNECT_TIMEOUT",
  "CONNECTION_CLOSED",
  "CONNECTION_DESTROYED",
  "CONNECTION_ENDED",
  "ECONNABORTED",
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENOENT",
  "ENOTFOUND",
  "EPIPE",
  "ETIMEDOUT",
]);

/** Severities behind which PostgreSQL ends the session. */
const ENDING = new Set(["FATAL", "PANIC"]);

/** What `error` comes down to; nothing where it is not a fault of the database. */
export function findFault(error: unknown): DatabaseFault | undefined {
  const { code, routine } = errorFields(error);
  if (code === undefined) return undefined;
  if (LOST_CODES.has(code) || (code === STANDBY.code && routine === STANDBY.routine)) return "unreachable";
  if (!/^[0-9A-Z]{5}$/.test(code)) return undefined;
  return FAULTS[code] ?? FAULTS[code.slice(0, 3)] ?? FAULTS[code.slice(0, 2)];
}

/** Tells whether the connection that `error` came by is gone, or was never made. */
export function isConnectionLost(error: unknown): boolean {
  const { code, severity } = errorFields(error);
  return code !== undefined && (LOST_CODES.has(code) || ENDING.has(severity ?? ""));
}

/** Tells whether `error` is PostgreSQL's unique violation on the index or constraint of that name. */
export function isUniqueViolation(error: unknown, index: string): boolean {
  const { code, constraint_name } = errorFields(error);
  return code === "23505" && constraint_name === index;
}

interface ErrorFields {
  readonly code?: string;
  readonly severity?: string;
  readonly constraint_name?: string;
  /** The function of PostgreSQL's source that has raised it. */
  readonly routine?: string;
}

/** drizzle wraps PostgreSQL's error as the cause of its own. */
function errorFields(error: unknown): ErrorFields {
  const outer = error as ErrorFields & { cause?: unknown };
  return outer?.code === undefined && outer?.cause ? errorFields(outer.cause) : outer ?? {};
}
