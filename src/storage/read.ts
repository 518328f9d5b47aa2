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
 *
 * *Checked*: every block that leaves the database is compared with its checksum here, in {@linkcode readTargets}, and nowhere
 * else, for all reads come by here. One that is not as it was written is told by its place, and none of what it was asked for with.
 */

import type { Connection } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { type BlockRange, requireInside } from "./block.ts";
import { newestVersion } from "./block_version.ts";
import { CHECKSUM_BYTES, checksumBlocks, findFault } from "./checksum.ts";
import { type CorruptBlock, describeCorrupt } from "./corrupt_block.ts";
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

/** Blocks as they were written, with their checksums one after the other; those of blocks that are not there are zeros. */
export interface CheckedBlocks {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly checksums: Uint8Array<ArrayBuffer>;
}

/** What was found: of a live volume how many blocks it has; and the blocks, or that some are not as they were written. */
export type FoundBlocks =
  & { readonly volumeBlocks?: number }
  & (CheckedBlocks | { readonly fault: StorageError });

// Statements

/** First come the targets that there are, with LBA -1; then the blocks that are not zeros, or should not be. */
interface BlockRow {
  ordinal: number;
  lba: number;
  volume_blocks: number | null;
  data: Uint8Array | null;
  checksum: Uint8Array | null;
  segment_id: number;
  sequence: number;
  queued: boolean;
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
    select ordinal, -1::bigint as lba, volume_blocks, null as data, null as checksum, null as segment_id,
      null as sequence, null as queued
    from target
    union all
    select target.ordinal, b.lba, null, found.data, found.checksum, found.segment_id, found.sequence, found.queued
    from target join line on line.ordinal = target.ordinal
    cross join generate_series(target.lba, target.lba + target.block_count - 1) as b (lba)
    cross join lateral (
      select newest.*
      from unnest(line.timeline_ids, line.epochs) with ordinality as l (timeline_id, epoch, depth)
      cross join lateral (
        select m.segment_id, version.data, version.checksum, version.sequence, version.queued
        from segment_map m cross join lateral ${newestVersion(client, pool, "data")} version
        where m.pool_id = ${poolId} and m.timeline_id = l.timeline_id and m.epoch <= l.epoch
          and m.slot = b.lba / ${segmentBlocks}::bigint
        order by m.epoch desc limit 1
      ) newest
      order by l.depth limit 1
    ) found
    where found.data is not null or found.checksum is not null`;
}

// Verbs

/** Reads all of `targets` by one look, and answers them in their order: nothing where there is no such volume or snapshot. */
export async function readTargets(
  connection: Connection,
  pool: Pool,
  targets: readonly ReadTarget[],
): Promise<(FoundBlocks | undefined)[]> {
  const found: (FoundBlocks & CheckedBlocks | undefined)[] = targets.map(() => undefined);
  const corrupt: (CorruptBlock & { ordinal: number })[] = [];
  for (const row of await selectBlocks(connection, pool, targets)) {
    const index = row.ordinal - 1;
    const blocks = found[index];
    if (row.lba < 0) found[index] = toFound(pool, targets[index], row);
    else if (blocks !== undefined) {
      const fault = putBlock(pool, blocks, targets[index], row);
      if (fault !== undefined) corrupt.push({ ...toPlace(pool, row, fault), ordinal: row.ordinal });
    }
  }
  return corrupt.length === 0 ? found : await withFaults(connection, pool, found, corrupt);
}

function toFound(
  { blockSizeBytes }: Pool,
  { blockCount }: ReadTarget,
  { volume_blocks: volumeBlocks }: BlockRow,
): FoundBlocks & CheckedBlocks {
  return {
    bytes: new Uint8Array(blockCount * blockSizeBytes),
    checksums: new Uint8Array(blockCount * CHECKSUM_BYTES),
    ...(volumeBlocks === null ? {} : { volumeBlocks }),
  };
}

/** Puts a block among those of its target if it is as it was written, or else answers what is wrong with it. */
function putBlock(
  { blockSizeBytes }: Pool,
  { bytes, checksums }: CheckedBlocks,
  target: ReadTarget,
  { lba, data, checksum }: BlockRow,
): string | undefined {
  const fault = findFault(lba, data, checksum, blockSizeBytes);
  if (fault !== undefined || data === null) return fault;
  const index = lba - target.lba;
  bytes.set(data, index * blockSizeBytes);
  checksums.set(checksum ?? checksumBlocks(lba, data, blockSizeBytes), index * CHECKSUM_BYTES);
}

function toPlace({ segmentBlocks }: Pool, row: BlockRow, fault: string): CorruptBlock {
  const { lba, segment_id: segmentId, sequence, queued } = row;
  return { lba, segmentId, blockIndex: lba % segmentBlocks, sequence, queued, fault };
}

/** Has the targets of corrupt blocks tell of the first of them. */
async function withFaults(
  connection: Connection,
  pool: Pool,
  found: readonly (FoundBlocks | undefined)[],
  corrupt: readonly (CorruptBlock & { ordinal: number })[],
): Promise<(FoundBlocks | undefined)[]> {
  const byTarget = Map.groupBy(corrupt, ({ ordinal }) => ordinal - 1);
  const answers = [...found];
  for (const [index, blocks] of byTarget) {
    const { volumeBlocks } = found[index] as FoundBlocks;
    const fault = await describeCorrupt(connection, pool, blocks);
    answers[index] = { fault, ...(volumeBlocks === undefined ? {} : { volumeBlocks }) };
  }
  return answers;
}

/**
 * What a read of a live volume found, judged.
 *
 * @throws {StorageError} `lba-out-of-range`; `volume-not-found` when it was deleted; `data-corrupt`.
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
  return requireIntact(found).bytes;
}

/** @throws {StorageError} `data-corrupt` when a block is not as it was written. */
export function requireIntact(found: FoundBlocks): CheckedBlocks {
  if ("fault" in found) throw found.fault;
  return found;
}

/**
 * The blocks of `range` of a volume as a snapshot has it.
 *
 * @throws {StorageError} `lba-out-of-range` for no range at all, `outside-snapshot` for blocks it does not cover,
 *   `snapshot-not-found` when it was deleted or cancelled, `data-corrupt` when a block is not as it was written.
 */
export async function readSnapshot(
  connection: Connection,
  pool: Pool,
  snapshotId: string,
  covered: CoveredVolume,
  range: BlockRange,
): Promise<CheckedBlocks> {
  requireInside(range, Number.MAX_SAFE_INTEGER, "read");
  requireCovered(covered, range);
  const { timelineId, epoch } = covered;
  const [found] = await readTargets(connection, pool, [{ ...range, snapshotId, timelineId, epoch }]);
  if (found !== undefined) return requireIntact(found);
  throw new StorageError(
    "snapshot-not-found",
    `Cannot read snapshot ${snapshotId}: it is deleted or cancelled`,
  );
}
