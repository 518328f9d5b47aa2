/**
 * What PostgreSQL and postgres.js say when something fails, told apart by their codes.
 */

/** Tells whether `error` says that the database could not be reached, or ended the connection. */
export function isConnectionError(error: unknown): boolean {
  const { code } = errorFields(error);
  return code !== undefined && (CONNECTION_CODES.has(code) || /^(08|25P03|57P|53300)/.test(code));
}

/** Tells whether `error` says that PostgreSQL ended a statement or a wait for being too long. */
export function isOverdue(error: unknown): boolean {
  const { code } = errorFields(error);
  return code === "57014" || code === "55P03";
}

/** Tells whether `error` is PostgreSQL's unique violation on the index or constraint of that name. */
export function isUniqueViolation(error: unknown, index: string): boolean {
  const { code, constraint_name } = errorFields(error);
  return code === "23505" && constraint_name === index;
}

const CONNECTION_CODES = new Set([
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

/** drizzle wraps PostgreSQL's error as the cause of its own. */
function errorFields(error: unknown): { code?: string; constraint_name?: string } {
  const outer = error as { code?: string; constraint_name?: string; cause?: unknown };
  return outer?.code === undefined && outer?.cause ? errorFields(outer.cause) : outer ?? {};
}
