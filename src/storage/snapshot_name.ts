/**
 * Names of snapshots: a pool has no two snapshots of one name. The database sees to that; here it is told in our words, or
 * looked up ahead.
 */

import { and, eq, inArray } from "drizzle-orm";
import type { Connection, Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { snapshots } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import { listNumbered } from "./derived_name.ts";

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
  if (await findFree(connection, poolId, [name]) === undefined) throw isNameTaken(name);
}

/**
 * The name for a snapshot that is to be taken by `tx`: `name` where no other has it, else the same with a number behind. None
 * when too many are taken. The pool is locked, so it stays free.
 */
export async function chooseSnapshotName(
  tx: Transaction,
  poolId: string,
  name: string,
): Promise<string | undefined> {
  return await findFree(tx, poolId, listNumbered(name));
}

/** The first of `names` that no snapshot of the pool has. */
async function findFree(
  connection: Connection,
  poolId: string,
  names: string[],
): Promise<string | undefined> {
  const taken = await connection.select({ name: snapshots.name }).from(snapshots)
    .where(and(eq(snapshots.poolId, poolId), inArray(snapshots.name, names)));
  return names.find((name) => !taken.some((row) => row.name === name));
}

/** What is answered to who wants a name that another snapshot of the pool has. */
export function isNameTaken(name: string | undefined): StorageError {
  return new StorageError("name-taken", `Cannot take snapshot ${name}: the pool has one of that name`);
}
