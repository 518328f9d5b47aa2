/**
 * Reading: one rule for the live volume, a pending snapshot and a sealed one.
 *
 * For each block: the segments that its slot was mapped to, newest epoch first, then those of the parent timeline up to
 * where this one left it, and so on. The first segment that has the block decides; none means zeros. Inside a
 * segment the highest sequence wins, be it in the cache or in `blocks`: not "cache first", for an older write may wait
 * in the cache while a newer one is flushed already.
 *
 * It is one SQL statement, so one database snapshot: a flush that moves a block meanwhile is either wholly seen or not
 * at all. A statement that looked in the cache and then in `blocks` would miss what moved in between.
 *
 * One statement serves many reads: what a statement costs by itself is several times what a block costs.
 *
 * A snapshot needs no marker to be read: it is (timeline, epoch), and no write can land in that epoch any more.
 */

import type { Connection } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { type BlockRange, requireInside } from "./block.ts";
import { newestVersion } from "./block_version.ts";
import { type CoveredVolume, requireCovered } from "./covered.ts";
import type { Pool } from "./pool.ts";
import { EPOCH_LIVE, lineageOf } from "./timeline.ts";
import type { Volume } from "./volume.ts";

/** What one read looks at: a live volume, or the end of (timeline, epoch) as long as a snapshot reads it. */
export interface ReadTarget extends BlockRange {
  readonly volumeId?: string;
  readonly snapshotId?: string;
  readonly timelineId?: number;
  readonly epoch?: number;
}

/** What was found: of a live volume how many blocks it has, and none when there is no such volume. */
export interface FoundBlocks {
  readonly volumeBlocks?: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

// Statements

/** First come the targets that there are, with LBA -1; then the blocks that are not zeros. */
interface BlockRow {
  ordinal: number;
  lba: number;
  volume_blocks: number | null;
  data: Uint8Array;
}

async function selectBlocks(
  { $client: client }: Connection,
  pool: Pool,
  targets: readonly ReadTarget[],
): Promise<BlockRow[]> {
  const { poolId, segmentBlocks } = pool;
  return await client<BlockRow[]>`
    with recursive target as (
      select r.ordinal, r.lba, r.block_count, r.epoch, coalesce(v.timeline_id, r.timeline_id) as timeline_id,
        v.block_count as volume_blocks
      from unnest(
        ${targets.map(({ volumeId }) => volumeId ?? null)}::uuid[],
        ${targets.map(({ snapshotId }) => snapshotId ?? null)}::uuid[],
        ${targets.map(({ timelineId }) => timelineId ?? null)}::bigint[],
        ${targets.map(({ epoch }) => epoch ?? EPOCH_LIVE)}::bigint[],
        ${targets.map(({ lba }) => lba)}::bigint[],
        ${targets.map(({ blockCount }) => blockCount)}::bigint[]
      ) with ordinality as r (volume_id, snapshot_id, timeline_id, epoch, lba, block_count, ordinal)
      left join lateral (
        select timeline_id, block_count from volumes
        where pool_id = ${poolId} and volume_id = r.volume_id and deleted_at is null limit 1
      ) v on true
      where coalesce(v.timeline_id, r.timeline_id) is not null and (r.snapshot_id is null or exists (
        select from snapshots s
        where s.pool_id = ${poolId} and s.snapshot_id = r.snapshot_id and s.status in ('pending', 'sealed')
      ))
    ), ${lineageOf(client, poolId)}
    select ordinal, -1::bigint as lba, volume_blocks, null as data from target
    union all
    select target.ordinal, b.lba, null, found.data
    from target join line on line.ordinal = target.ordinal
    cross join generate_series(target.lba, target.lba + target.block_count - 1) as b (lba)
    cross join lateral (
      select newest.data
      from unnest(line.timeline_ids, line.epochs) with ordinality as l (timeline_id, epoch, depth)
      cross join lateral (
        select version.data
        from segment_map m cross join lateral ${newestVersion(client, pool, "data")} version
        where m.pool_id = ${poolId} and m.timeline_id = l.timeline_id and m.epoch <= l.epoch
          and m.slot = b.lba / ${segmentBlocks}::bigint
        order by m.epoch desc limit 1
      ) newest
      order by l.depth limit 1
    ) found
    where found.data is not null`;
}

// Verbs

/** Reads all of `targets` by one look, and answers them in their order: nothing where there is no such volume or snapshot. */
export async function readTargets(
  connection: Connection,
  pool: Pool,
  targets: readonly ReadTarget[],
): Promise<(FoundBlocks | undefined)[]> {
  const found: (FoundBlocks | undefined)[] = targets.map(() => undefined);
  for (const { ordinal, lba, volume_blocks, data } of await selectBlocks(connection, pool, targets)) {
    const target = targets[ordinal - 1];
    if (lba < 0) {
      const bytes = new Uint8Array(target.blockCount * pool.blockSizeBytes);
      found[ordinal - 1] = { bytes, ...(volume_blocks === null ? {} : { volumeBlocks: volume_blocks }) };
    } else {
      found[ordinal - 1]?.bytes.set(data, (lba - target.lba) * pool.blockSizeBytes);
    }
  }
  return found;
}

/**
 * What a read of a live volume found, judged.
 *
 * @throws {StorageError} `lba-out-of-range`; `volume-not-found` when it was deleted.
 */
export function requireFound(
  volume: Volume,
  range: BlockRange,
  found: FoundBlocks | undefined,
): Uint8Array<ArrayBuffer> {
  if (found?.volumeBlocks === undefined) {
    throw new StorageError("volume-not-found", `Cannot find volume ${volume.name}`);
  }
  requireInside(range, found.volumeBlocks, "read");
  return found.bytes;
}

/**
 * The blocks of `range` of a volume as a snapshot has it.
 *
 * @throws {StorageError} `lba-out-of-range` for no range at all, `outside-snapshot` for blocks it does not cover,
 *   `snapshot-not-found` when it was deleted or cancelled.
 */
export async function readSnapshot(
  connection: Connection,
  pool: Pool,
  snapshotId: string,
  covered: CoveredVolume,
  range: BlockRange,
): Promise<Uint8Array<ArrayBuffer>> {
  requireInside(range, Number.MAX_SAFE_INTEGER, "read");
  requireCovered(covered, range);
  const { timelineId, epoch } = covered;
  const [found] = await readTargets(connection, pool, [{ ...range, snapshotId, timelineId, epoch }]);
  if (found !== undefined) return found.bytes;
  throw new StorageError(
    "snapshot-not-found",
    `Cannot read snapshot ${snapshotId}: it is deleted or cancelled`,
  );
}
