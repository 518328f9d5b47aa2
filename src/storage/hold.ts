/**
 * Holds: a snapshot that is held cannot be deleted or cancelled before a moment, by nobody. A hold may be extended and never
 * shortened, also while the snapshot is pending; it ends by itself.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { appendEvent } from "./event.ts";
import type { SnapshotPlace } from "./snapshot.ts";

/** Longest reason, in characters. */
export const HOLD_REASON_LENGTH_MAX = 1_000;

/** Until when, and what for. */
export interface Hold {
  readonly until: Date;
  readonly reason: string;
}

// Statements

interface HeldRow {
  name: string | null;
  status: string;
  held_until: string | null;
}

/** Locks the snapshot: a deletion waits for the hold, or the hold finds it gone. */
async function lockSnapshot(tx: Transaction, { pool, snapshotId }: SnapshotPlace): Promise<HeldRow> {
  const [row] = await tx.$client<HeldRow[]>`
    select name, status, held_until from snapshots
    where pool_id = ${pool.poolId} and snapshot_id = ${snapshotId} for update`;
  if (row !== undefined && row.status !== "cancelled") return row;
  throw new StorageError(
    "snapshot-not-found",
    `Cannot hold snapshot ${snapshotId}: it is deleted or cancelled`,
  );
}

// Verbs

/**
 * Holds a snapshot, or extends its hold.
 *
 * @throws {StorageError} `snapshot-not-found`; `held` when it is held for longer already; `invalid-argument` for a moment that
 *   is over or a reason that is too long.
 */
export async function holdSnapshot(
  database: Database,
  actor: Actor,
  place: SnapshotPlace,
  { until, reason }: Hold,
  at: Date,
): Promise<void> {
  requireHold({ until, reason }, at);
  const { pool: { poolId }, snapshotId } = place;
  await transact(database, async (tx) => {
    const { name, held_until: heldUntil } = await lockSnapshot(tx, place);
    if (heldUntil !== null && new Date(heldUntil) > until) {
      throw new StorageError(
        "held",
        `Cannot shorten the hold of snapshot ${snapshotId}: it ends ${new Date(heldUntil).toISOString()}`,
      );
    }
    await tx.$client`
      update snapshots set held_until = ${until.toISOString()}, hold_reason = ${reason}
      where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
    const target = { targetId: snapshotId, ...(name === null ? {} : { targetName: name }) };
    await appendAudit(tx, actor, { poolId, at, action: "snapshot.hold", ...target });
    const body = { until: until.toISOString(), reason };
    await appendEvent(tx, poolId, { type: "snapshot.held", at, snapshotId, body });
  });
}

function requireHold({ until, reason }: Hold, at: Date): void {
  if (!(until > at)) {
    throw new StorageError("invalid-argument", "Cannot hold a snapshot until a moment that is over");
  }
  if (reason.length > HOLD_REASON_LENGTH_MAX || reason.includes("\0")) {
    throw new StorageError(
      "invalid-argument",
      `Cannot hold a snapshot for this reason: expected at most ${HOLD_REASON_LENGTH_MAX} characters without NUL`,
    );
  }
}
