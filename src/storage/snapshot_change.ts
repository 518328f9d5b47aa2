/**
 * What people may change of a snapshot: its labels and its description. Its contents and what it covers stay as they are.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { appendEvent } from "./event.ts";
import { type LabelPatch, patchLabels } from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import type { SnapshotPlace } from "./snapshot.ts";
import { DESCRIPTION_BYTES_MAX, isDescription } from "./snapshot_command.ts";

/** What to change; what is absent stays, and `null` removes. */
export interface SnapshotChange {
  readonly description?: string | null;
  readonly labels?: LabelPatch;
}

// Statements

interface FoundRow {
  name: string | null;
  description: string | null;
}

async function lockSnapshot(tx: Transaction, { pool, snapshotId }: SnapshotPlace): Promise<FoundRow> {
  const [row] = await tx.$client<FoundRow[]>`
    select name, description from snapshots
    where pool_id = ${pool.poolId} and snapshot_id = ${snapshotId} for no key update`;
  if (row === undefined) throw new StorageError("snapshot-not-found", `Cannot find snapshot ${snapshotId}`);
  return row;
}

async function updateDescription(
  tx: Transaction,
  { pool, snapshotId }: SnapshotPlace,
  description: string | null,
): Promise<void> {
  await tx.$client`
    update snapshots set description = ${description}
    where pool_id = ${pool.poolId} and snapshot_id = ${snapshotId}`;
}

// Verbs

/**
 * Changes a snapshot's labels, its description, or both at once.
 *
 * @throws {StorageError} `snapshot-not-found`; `invalid-argument` for labels or a description that are none.
 */
export async function changeSnapshot(
  database: Database,
  actor: Actor,
  place: SnapshotPlace,
  { description, labels }: SnapshotChange,
  limits: StorageLimits,
  at: Date,
): Promise<void> {
  if (typeof description === "string") requireDescription(description);
  const { pool: { poolId }, snapshotId } = place;
  await transact(database, async (tx) => {
    const found = await lockSnapshot(tx, place);
    const described = description !== undefined && description !== found.description;
    if (described) await updateDescription(tx, place, description);
    const patched = labels === undefined
      ? undefined
      : await patchLabels(tx, poolId, { kind: "snapshot", targetId: snapshotId }, labels, limits);
    if (!described && patched === undefined) return;
    const target = { targetId: snapshotId, ...(found.name === null ? {} : { targetName: found.name }) };
    await appendAudit(tx, actor, { poolId, at, action: "snapshot.label", ...target });
    const body = {
      ...(patched === undefined ? {} : { labels: patched }),
      ...(described ? { description } : {}),
    };
    await appendEvent(tx, poolId, { type: "snapshot.labelled", at, snapshotId, body });
  });
}

function requireDescription(description: string): void {
  if (isDescription(description)) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot use this description: expected at most ${DESCRIPTION_BYTES_MAX} bytes without NUL`,
  );
}
