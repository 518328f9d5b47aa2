/**
 * What a fault of the database means to a client.
 */

import { type DatabaseFault, findFault } from "../database/connection_error.ts";
import { type ErrorCode, StorageError } from "../errors.ts";

/** One row for every fault; it does not compile when one is missing. */
const FAULTS: Readonly<Record<DatabaseFault, { code: ErrorCode; message: string }>> = {
  unreachable: { code: "database-unavailable", message: "Cannot reach the database; nothing was changed" },
  overdue: {
    code: "too-busy",
    message: "Cannot finish in time: the database is too busy; nothing was changed",
  },
  conflict: { code: "too-busy", message: "Cannot get past other requests; nothing was changed" },
  overloaded: {
    code: "too-busy",
    message: "Cannot go on: the database is short of resources; nothing was changed",
  },
  full: { code: "disk-full", message: "Cannot store this: the database's disk is full; nothing was changed" },
};

/** Faults that go by: what failed with one of them may be tried again later. */
export const PASSING_FAULTS: ReadonlySet<string> = new Set<ErrorCode>([
  "database-unavailable",
  "disk-full",
  "outcome-unknown",
  "timed-out",
  "too-busy",
]);

/** The {@linkcode StorageError} that `error` comes down to; none for a fault of the program itself. */
export function toStorageError(error: unknown): StorageError | undefined {
  if (error instanceof StorageError) return error;
  const fault = findFault(error);
  if (fault === undefined) return undefined;
  const { code, message } = FAULTS[fault];
  return new StorageError(code, message, { cause: error });
}

/**
 * Reads the answer to a request that has taken effect. A fault of the database is no reason then to say that nothing was changed.
 *
 * @throws {StorageError} `outcome-unknown` for such a fault; whatever else `read` throws.
 */
export async function readAnswer<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof StorageError || toStorageError(error) === undefined) throw error;
    throw new StorageError(
      "outcome-unknown",
      "Cannot tell what became of the request: it took effect, and the database failed before its answer was read",
      { cause: error },
    );
  }
}
