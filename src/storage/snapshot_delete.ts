/**
 * Deleting snapshots, and cancelling those that are still pending.
 *
 *     pending ──(cancelled)──► cancelled ──(deleted)──► gone
 *     sealed  ──(deleted)────────────────────────────► gone
 *
 * Both answer at once, whatever the snapshot covers: what it alone could tell apart is looked at in the background
 * ({@linkcode reclaimStep}). A pending snapshot's marker becomes an entry that does nothing, so the sequences stay without
 * gaps and the counters right. That needs the pool's tail, the right to take markers out of the queue, and it is taken before the
 * pool's lock: nobody who writes waits for a flush.
 *
 * Under the pool's lock nobody can start from the snapshot any more; who did so before is a reader by then. As all writers wait for
 * that lock, what is said under it is sent in two goes: what is read, and then all that is written, the event last.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { reselectedPhases } from "../scsi/phases.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { chainCompletion } from "./audit_chain.ts";
import { requireNotCopied } from "./copy.ts";
import { deleteDigestion } from "./digestion.ts";
import { appendEvent } from "./event.ts";
import { deleteLabels } from "./label.ts";
import { lockPool, lockTail } from "./pool.ts";
import { appendReclaims } from "./reclaim_task.ts";
import type { SnapshotPlace } from "./snapshot.ts";
import { deleteSpace } from "./space.ts";
import type { TimelinePoint } from "./timeline.ts";

// Statements

interface Row {
  snapshot_id: string;
  name: string | null;
  status: "pending" | "sealed" | "cancelled" | "failed";
  marker_sequence: number;
  audit_id: string;
  scsi_status: string | null;
  held_until: string | null;
}

async function isPending(tx: Transaction, poolId: string, snapshotId: string): Promise<boolean> {
  const rows = await tx.$client`
    select from snapshots where pool_id = ${poolId} and snapshot_id = ${snapshotId} and status = 'pending'`;
  return rows.length > 0;
}

async function lockSnapshot(tx: Transaction, poolId: string, snapshotId: string): Promise<Row> {
  const [row] = await tx.$client<Row[]>`
    select s.snapshot_id, s.name, s.status, s.marker_sequence, s.audit_id, a.scsi_status,
      s.held_until
    from snapshots s join audit a on a.pool_id = s.pool_id and a.audit_id = s.audit_id
    where s.pool_id = ${poolId} and s.snapshot_id = ${snapshotId}
    for update of s`;
  if (row === undefined) throw new StorageError("snapshot-not-found", `Cannot find snapshot ${snapshotId}`);
  return row;
}

/** What the snapshot read, and of which volume. */
async function selectPoints(
  tx: Transaction,
  poolId: string,
  snapshotId: string,
): Promise<(TimelinePoint & { volumeId: string })[]> {
  const rows = await tx.$client<{ volume_id: string; timeline_id: number; epoch: number }[]>`
    select volume_id, timeline_id, epoch from snapshot_volumes
    where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
  return rows.map((row) => ({ volumeId: row.volume_id, timelineId: row.timeline_id, epoch: row.epoch }));
}

/** What is left is a trim of nothing. */
async function neutralizeMarker(tx: Transaction, poolId: string, sequence: number): Promise<void> {
  await tx.$client`
    update cache set kind = 'trim', data = null
    where pool_id = ${poolId} and sequence = ${sequence} and kind = 'marker'`;
}

async function markCancelled(tx: Transaction, poolId: string, snapshotId: string): Promise<void> {
  await tx.$client`
    update snapshots set status = 'cancelled', name = null
    where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
}

async function deleteCovered(tx: Transaction, poolId: string, snapshotId: string): Promise<void> {
  await tx.$client`delete from snapshot_volumes where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
}

async function deleteRow(tx: Transaction, poolId: string, snapshotId: string): Promise<void> {
  await tx.$client`delete from snapshots where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
}

// Verbs

/**
 * Deletes a snapshot; one that is pending is cancelled, and stays as a record until it is deleted once more.
 *
 * @param mayGo has the last word, with the pool and the snapshot locked. Answers what it said.
 * @throws {StorageError} `snapshot-not-found`, `held`, `in-use` while it is copied.
 */
export async function deleteSnapshot(
  database: Database,
  actor: Actor,
  { pool: { poolId }, snapshotId }: Pick<SnapshotPlace, "pool" | "snapshotId">,
  at: Date,
  mayGo: (tx: Transaction) => Promise<boolean> = () => Promise.resolve(true),
): Promise<boolean> {
  return await transact(database, async (tx) => {
    if (await isPending(tx, poolId, snapshotId)) await lockTail(tx, poolId);
    // In this order, though sent at once. Sealed meanwhile, held, or deleted by somebody else.
    const [, row, points] = await Promise.all([
      lockPool(tx, poolId),
      lockSnapshot(tx, poolId, snapshotId),
      selectPoints(tx, poolId, snapshotId),
    ]);
    if (!await mayGo(tx)) return false;
    requireNotHeld(row, at);
    await requireNotCopied(tx, poolId, snapshotId);
    await Promise.all([
      deleteSpace(tx, poolId, snapshotId),
      row.status === "pending" ? cancel(tx, actor, poolId, row, at) : remove(tx, actor, poolId, row, at),
      row.status === "cancelled" ? undefined : appendReclaims(tx, poolId, points, at),
      appendEvent(tx, poolId, {
        type: row.status === "pending" ? "snapshot.cancelled" : "snapshot.deleted",
        at,
        snapshotId,
        // Who follows a volume would not find it by what the snapshot covered any more.
        ...(points.length === 1 ? { volumeId: points[0].volumeId } : {}),
        body: { sequence: row.marker_sequence },
      }),
    ]);
    return true;
  });
}

function requireNotHeld({ snapshot_id: snapshotId, held_until: heldUntil }: Row, at: Date): void {
  if (heldUntil === null || new Date(heldUntil) <= at) return;
  throw new StorageError(
    "held",
    `Cannot delete snapshot ${snapshotId}: it is held until ${new Date(heldUntil).toISOString()}`,
  );
}

async function cancel(tx: Transaction, actor: Actor, poolId: string, row: Row, at: Date): Promise<void> {
  const { snapshot_id: snapshotId, audit_id: auditId } = row;
  await Promise.all([
    neutralizeMarker(tx, poolId, row.marker_sequence),
    markCancelled(tx, poolId, snapshotId),
    row.scsi_status === null
      ? chainCompletion(tx, poolId, auditId, reselectedPhases(at), "CHECK CONDITION")
      : undefined,
    appendAudit(tx, actor, toAudit(row, poolId, "snapshot.cancel", at)),
  ]);
}

async function remove(tx: Transaction, actor: Actor, poolId: string, row: Row, at: Date): Promise<void> {
  const { snapshot_id: snapshotId } = row;
  await Promise.all([
    deleteCovered(tx, poolId, snapshotId),
    deleteRow(tx, poolId, snapshotId),
    deleteLabels(tx, poolId, snapshotId),
    deleteDigestion(tx, poolId, snapshotId),
    appendAudit(tx, actor, toAudit(row, poolId, "snapshot.delete", at)),
  ]);
}

function toAudit(row: Row, poolId: string, action: "snapshot.cancel" | "snapshot.delete", at: Date) {
  return {
    poolId,
    at,
    action,
    targetId: row.snapshot_id,
    ...(row.name === null ? {} : { targetName: row.name }),
  };
}
