/**
 * Clones: a new volume whose timeline starts at the end of (timeline, epoch) of a snapshot.
 *
 * Nothing is copied and nothing waits: what the clone has not written itself is found by walking on into its parent
 * timeline. A snapshot need not be sealed for it, for its contents are fixed from its marker's commit on.
 */

import { type Database, transact } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { requireBlockCount } from "./block.ts";
import { type CoveredVolume, requireWhole } from "./covered.ts";
import { appendEvent } from "./event.ts";
import { createId, requireName } from "./identifier.ts";
import { type Labels, requireLabels } from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import { lockPool, type Pool } from "./pool.ts";
import { getCovered } from "./snapshot.ts";
import { createTimeline } from "./timeline.ts";
import { insertVolume, requireNewName, toVolumeAudit, toVolumeEvent, type Volume } from "./volume.ts";

/** A volume as a snapshot has it; `volumeId` may be absent when it covers one only. */
export interface VolumeSource {
  readonly snapshotId: string;
  readonly volumeId?: string;
}

/** What to make: as large as the source unless it says larger. */
export interface NewClone {
  readonly name: string;
  readonly blockCount?: number;
  readonly labels?: Labels;
}

/**
 * Creates a volume with the contents that a snapshot has of another; the blocks it is larger by read as zeros.
 *
 * @throws {StorageError} `name-taken`, `snapshot-not-found`, `outside-snapshot` when the snapshot does not cover the
 *   whole volume, `invalid-argument` for a size below the source's.
 */
export async function cloneVolume(
  database: Database,
  actor: Actor,
  pool: Pool,
  source: VolumeSource,
  input: NewClone,
  limits: StorageLimits,
  at: Date,
): Promise<Volume> {
  const { name, labels = {} } = input;
  requireName(name);
  requireLabels(labels, limits);
  if (input.blockCount !== undefined) requireBlockCount(input.blockCount);
  const { poolId } = pool;
  return await requireNewName(name, () =>
    transact(database, async (tx) => {
      const head = await lockPool(tx, poolId);
      const covered = requireWhole(await getCovered(tx, poolId, source.snapshotId, source.volumeId));
      const blockCount = requireRoomFor(covered, input);
      const volumeId = createId();
      const timelineId = await createTimeline(tx, poolId, head, volumeId, covered);
      const volume = {
        pool,
        volumeId,
        name,
        blockCount,
        labels,
        timelineId,
        createdAt: at,
        mappedSegments: 0,
      };
      await insertVolume(tx, volume);
      await appendAudit(tx, actor, toVolumeAudit(volume, "volume.clone", at));
      const event = toVolumeEvent(volume, "volume.created", at);
      const body = { ...event.body, snapshotId: source.snapshotId, sourceVolumeId: covered.volumeId };
      await appendEvent(tx, poolId, { ...event, body });
      return volume;
    }));
}

function requireRoomFor(
  { volumeBlocks }: CoveredVolume,
  { name, blockCount = volumeBlocks }: NewClone,
): number {
  if (blockCount >= volumeBlocks) return blockCount;
  throw new StorageError(
    "invalid-argument",
    `Cannot create volume ${name} with ${blockCount} blocks: its source has ${volumeBlocks}`,
  );
}
