/**
 * Names of snapshots: a pool has no two snapshots of one name. The database sees to that; here it is told in our words, or
 * looked up ahead.
 */

import { and, eq } from "drizzle-orm";
import type { Connection } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { snapshots } from "../database/schema.ts";
import { StorageError } from "../errors.ts";

/** Tells a name that another snapshot of the pool has from other faults. @throws {StorageError} `name-taken`. */
export async function requireNewSnapshotName<T>(
  name: string | undefined,
  take: () => Promise<T>,
): Promise<T> {
  try {
    return await take();
  } catch (error) {
    if (!isUniqueViolation(error, "snapshots_name")) throw error;
    throw isNameTaken(name);
  }
}

/** Looks ahead whether a snapshot could have that name. @throws {StorageError} `name-taken`. */
export async function requireFreeSnapshotName(
  connection: Connection,
  poolId: string,
  name: string,
): Promise<void> {
  if (!await isFreeSnapshotName(connection, poolId, name)) throw isNameTaken(name);
}

/** Tells whether no snapshot of the pool has that name. */
export async function isFreeSnapshotName(
  connection: Connection,
  poolId: string,
  name: string,
): Promise<boolean> {
  const taken = await connection.select({ name: snapshots.name }).from(snapshots)
    .where(and(eq(snapshots.poolId, poolId), eq(snapshots.name, name))).limit(1);
  return taken.length === 0;
}

function isNameTaken(name: string | undefined): StorageError {
  return new StorageError("name-taken", `Cannot take snapshot ${name}: the pool has one of that name`);
}
