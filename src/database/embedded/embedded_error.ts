/** What the bundled PostgreSQL throws when it cannot be used: why, and what to set instead. */

const REMEDY =
  "Set SNAPMARK_DATA_DIR to another directory, or DATABASE_URL to a PostgreSQL (15 or newer) of your own";

/** The bundled PostgreSQL cannot be used. The message ends with what the operator can set instead. */
export class EmbeddedPostgresError extends Error {
  override readonly name = "EmbeddedPostgresError";

  /** `details` is shown as it is on lines of its own: what a program printed, the end of a log. */
  constructor(message: string, details = "", options?: ErrorOptions) {
    super([message, details.trim(), REMEDY].filter((part) => part !== "").join("\n"), options);
  }
}
