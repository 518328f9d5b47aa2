/**
 * The cache mode of a pool: when a write is answered.
 *
 * - *write-back*: when it is durably in the cache. The default.
 * - *write-back-relaxed*: when it is in the cache, before PostgreSQL's log has reached the disk. A crash of PostgreSQL or its machine
 *   loses what was answered last: a tail of the queue and never a middle, for the log is written in the order of commits, and
 *   that is the order of sequences. The lost sequences are given again.
 * - *write-through*: when it is durably where a flush would bring it (`write_through.ts`). Nothing is cached.
 *
 * Only appends are relaxed. Whatever else commits (a snapshot, a deletion, a flush, a change of the mode) commits durably, and
 * with it all that came before it. So are appends to staged contents: who fills them goes on from what was answered, and a loss
 * would be a hole in the middle.
 *
 * The mode stands in the row of the pool's head and is read under its lock; changing it raises the map version, so that a
 * process which remembers the head finds that out with its next append. There is no moment at which two appends obey different
 * modes in another order than that of their sequences.
 */

import type { Transaction } from "../database/client.ts";

export const CACHE_MODES = ["write-back", "write-back-relaxed", "write-through"] as const;
export type CacheMode = typeof CACHE_MODES[number];

/** Said in a transaction, its commit does not wait for the disk. */
export const COMMIT_RELAXED = "set local synchronous_commit = off";

/** The pool is locked. */
export async function updateCacheMode(tx: Transaction, poolId: string, mode: CacheMode): Promise<void> {
  await tx.$client`
    update pool_heads set cache_mode = ${mode}, map_version = map_version + 1 where pool_id = ${poolId}`;
}
