/**
 * Revert: a volume goes on from what a snapshot has of it.
 *
 * It gets a new timeline, which starts at the end of the snapshot's (timeline, epoch): nothing is copied, and the snapshots
 * taken meanwhile stay readable, for they stand on the timeline that it leaves. The change is made under the pool row's
 * lock and raises the map version (*one lock*, 8), so every write lands wholly before or wholly behind it, and its
 * sequence tells which.
 *
 * Unless told not to, a safety snapshot is taken by the same transaction: what the revert gives up is in it.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { requireWhole } from "./covered.ts";
import { appendEvent } from "./event.ts";
import type { HeadMove } from "./head_move.ts";
import { type MarkerRequest, type PlacedMarker, placeMarkerWithin } from "./marker.ts";
import { lockPool, type PoolHead } from "./pool.ts";
import { appendReclaims } from "./reclaim_task.ts";
import { getCovered } from "./snapshot.ts";
import { requireNewSnapshotName } from "./snapshot_name.ts";
import { createTimeline, EPOCH_LIVE } from "./timeline.ts";
import { getVolume, switchTimeline, toVolumeAudit, toVolumeEvent, type Volume } from "./volume.ts";

/** What a revert came to. */
export interface Reverted extends HeadMove {
  readonly volume: Volume;
  /** Writes with a sequence up to it were given up, later ones are in the volume. */
  readonly sequence: number;
  readonly safetySnapshotId?: string;
}

/**
 * Reverts a volume to a snapshot that covers it whole, and to the size that it had.
 *
 * @param safety the snapshot to take first, of this volume; none when absent.
 * @throws {StorageError} `volume-not-found`, `outside-snapshot`, `name-taken` for the safety snapshot's name.
 */
export async function revertVolume(
  database: Database,
  actor: Actor,
  volume: Volume,
  snapshotId: string,
  safety: MarkerRequest | undefined,
  clock: () => Date,
): Promise<Reverted> {
  const { pool, volumeId } = volume;
  return await requireNewSnapshotName(safety?.name, () =>
    transact(database, async (tx) => {
      const found = await lockPool(tx, pool.poolId);
      const current = await getVolume(tx, volumeId, pool.poolId);
      const source = requireWhole(await getCovered(tx, pool.poolId, snapshotId, volumeId));
      const placed = safety === undefined
        ? undefined
        : await placeMarkerWithin(tx, actor, pool, safety, clock);
      const head = placed?.left ?? found;
      const timelineId = await createTimeline(tx, pool.poolId, head, volumeId, source);
      const reverted = { ...current, timelineId, blockCount: source.volumeBlocks };
      const at = clock();
      await switchTimeline(tx, reverted);
      await appendReclaims(tx, pool.poolId, [{ timelineId: current.timelineId, epoch: EPOCH_LIVE }], at);
      await tell(tx, actor, reverted, { snapshotId, head, at });
      return toReverted(reverted, { found, head, placed });
    }));
}

async function tell(
  tx: Transaction,
  actor: Actor,
  volume: Volume,
  { snapshotId, head, at }: { snapshotId: string; head: PoolHead; at: Date },
): Promise<void> {
  const { sequenceAppended: sequence } = head;
  await appendAudit(tx, actor, { ...toVolumeAudit(volume, "volume.revert", at), sequence });
  const event = toVolumeEvent(volume, "volume.reverted", at);
  const body = { ...event.body, snapshotId, sequence };
  await appendEvent(tx, volume.pool.poolId, { ...event, body });
}

function toReverted(
  volume: Volume,
  { found, head, placed }: { found: PoolHead; head: PoolHead; placed: PlacedMarker | undefined },
): Reverted {
  return {
    volume,
    sequence: head.sequenceAppended,
    ...(placed === undefined ? {} : { safetySnapshotId: placed.snapshotId }),
    found,
    left: { ...head, mapVersion: head.mapVersion + 1, timelinesCreated: head.timelinesCreated + 1 },
  };
}
