/**
 * What a client that is bound to volumes can get at: those volumes, and the snapshots that cover nothing else.
 *
 * Whatever else it names is forbidden in one and the same way, whether it exists or not: the answer tells nothing of it.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { BoundVolume } from "./client.ts";
import { findPoolId } from "./pool.ts";
import { findSnapshotPlace } from "./snapshot.ts";
import { findVolumePlace } from "./volume.ts";

/** What a request names, with references. */
export interface Named {
  /** Where the names are looked up. */
  readonly pool?: string;
  readonly volumes?: readonly string[];
  readonly snapshots?: readonly string[];
}

/** What is answered when something is not there, or not known by its name alone. */
const UNKNOWN = ["ambiguous-name", "pool-not-found", "snapshot-not-found", "volume-not-found"];

// Statements

async function selectCoveredIds(database: Database, poolId: string, snapshotId: string): Promise<string[]> {
  const rows = await database.$client<{ volume_id: string }[]>`
    select volume_id from snapshot_volumes where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
  return rows.map(({ volume_id }) => volume_id);
}

// Verbs

/** Demands that all that is named is within `bound`. @throws {StorageError} `forbidden`. */
export async function requireWithin(
  database: Database,
  bound: readonly BoundVolume[],
  named: Named,
): Promise<void> {
  if (!await isWithin(database, bound, named)) throw beyondReach();
}

/** What a bound client is answered, whatever it has named. */
export function beyondReach(): StorageError {
  return new StorageError("forbidden", "Cannot do this: expected volumes that the client is bound to");
}

async function isWithin(
  database: Database,
  bound: readonly BoundVolume[],
  { pool, volumes = [], snapshots = [] }: Named,
): Promise<boolean> {
  const ids = new Set(bound.map(({ volumeId }) => volumeId));
  try {
    const poolId = await findPoolId(database, pool);
    if (poolId !== undefined && !bound.some((one) => one.poolId === poolId)) return false;
    const others = new Set(volumes.filter((reference) => !ids.has(reference.toLowerCase())));
    // Each volume has one id and one name.
    if (others.size > ids.size) return false;
    for (const reference of others) {
      if (!ids.has((await findVolumePlace(database, reference, poolId)).volumeId)) return false;
    }
    for (const reference of snapshots) {
      const { snapshotId, pool } = await findSnapshotPlace(database, reference, poolId);
      const covered = await selectCoveredIds(database, pool.poolId, snapshotId);
      if (covered.length === 0 || !covered.every((id) => ids.has(id))) return false;
    }
    return true;
  } catch (error) {
    if (error instanceof StorageError && UNKNOWN.includes(error.code)) return false;
    throw error;
  }
}
