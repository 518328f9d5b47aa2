/**
 * Pages of ranges, as clients ask for them: of a live volume, of what a snapshot has of one, and of what changed between two.
 *
 * A page's key is the LBA to go on from. A page of a snapshot is answered only if the snapshot is still there afterwards.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { BLOCK_COUNT_MAX, type BlockRange } from "./block.ts";
import { type CoveredVolume, intersectRanges } from "./covered.ts";
import type { Page } from "./page.ts";
import {
  findLineage,
  findPartsSince,
  type FoundRange,
  type LineagePart,
  listAllocated,
  listChanged,
  type RangeQuery,
} from "./ranges.ts";
import { getSnapshot, requireReadable } from "./snapshot.ts";
import type { CoveredPlace } from "./snapshot_image.ts";
import { EPOCH_LIVE } from "./timeline.ts";
import type { Volume } from "./volume.ts";

/** A page of ranges: from which LBA on, and how many at most. */
export interface RangePageRequest {
  readonly startLba: number;
  readonly itemsMax: number;
}

/** The allocated blocks of a live volume. */
export async function listVolumeRanges(
  database: Database,
  { pool, timelineId, blockCount }: Volume,
  page: RangePageRequest,
): Promise<Page<FoundRange>> {
  const parts = await findLineage(database, pool.poolId, { timelineId, epoch: EPOCH_LIVE });
  return await listAllocated(database, pool, toRangeQuery(page, parts, [{ lba: 0, blockCount }]));
}

/** The allocated blocks of a volume as a snapshot has it, of those that it covers. */
export async function listSnapshotRanges(
  database: Database,
  { pool, snapshotId, covered }: CoveredPlace,
  page: RangePageRequest,
): Promise<Page<FoundRange>> {
  const parts = await findLineage(database, pool.poolId, covered);
  const ranges = await listAllocated(database, pool, toRangeQuery(page, parts, covered.ranges));
  await requireReadable(database, pool.poolId, snapshotId);
  return ranges;
}

/**
 * What was written or cleared between an earlier snapshot, the base, and this one, in the blocks that both cover.
 *
 * @throws {StorageError} `unrelated-snapshots`, `outside-snapshot` when they cover no block in common.
 */
export async function listChanges(
  database: Database,
  { pool, snapshotId, covered }: CoveredPlace,
  baseReference: string,
  page: RangePageRequest,
): Promise<Page<FoundRange>> {
  const { volumes, snapshotId: baseId } = await getSnapshot(database, baseReference, pool.poolId);
  const { parts, base } = await findPartsSince(database, pool.poolId, covered, volumes);
  const within = intersectRanges(covered.ranges, reachOf(base));
  if (within.length === 0) {
    throw new StorageError(
      "outside-snapshot",
      "Cannot compare the snapshots: they cover no block in common",
    );
  }
  const changes = await listChanged(database, pool, toRangeQuery(page, parts, within));
  for (const id of [snapshotId, baseId]) await requireReadable(database, pool.poolId, id);
  return changes;
}

function toRangeQuery(
  { startLba, itemsMax }: RangePageRequest,
  parts: LineagePart[],
  ranges: BlockRange[],
): RangeQuery {
  if (!Number.isSafeInteger(startLba) || startLba < 0) {
    throw new StorageError("lba-out-of-range", `Cannot list ranges from LBA ${startLba} on`);
  }
  const within = intersectRanges(ranges, [{ lba: startLba, blockCount: BLOCK_COUNT_MAX }]);
  return { parts, within, itemsMax };
}

/** What lies behind the end that a volume had was not there, and a base that covers it up to its end says so. */
function reachOf({ ranges, volumeBlocks }: CoveredVolume): BlockRange[] {
  return ranges.map(({ lba, blockCount }) => ({
    lba,
    blockCount: lba + blockCount === volumeBlocks ? BLOCK_COUNT_MAX : blockCount,
  }));
}
