/**
 * What a fault of the database means to a client.
 */

import { isConnectionError, isOverdue } from "../database/connection_error.ts";
import { StorageError } from "../errors.ts";

/** The {@linkcode StorageError} that `error` comes down to; none for a fault of the program itself. */
export function toStorageError(error: unknown): StorageError | undefined {
  if (error instanceof StorageError) return error;
  if (isConnectionError(error)) {
    return new StorageError("database-unavailable", "Cannot reach the database; nothing was changed", {
      cause: error,
    });
  }
  if (isOverdue(error)) {
    return new StorageError("timed-out", "Cannot finish in time; nothing was changed", { cause: error });
  }
  return undefined;
}
