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
 * A snapshot needs no marker to be read: it is (timeline, epoch), and no write can land in that epoch any more.
 */

import type { Client, Connection } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { type BlockRange, requireInside } from "./block.ts";
import type { Pool } from "./pool.ts";
import type { CoveredVolume } from "./snapshot.ts";
import { EPOCH_LIVE, lineageOf } from "./timeline.ts";
import type { Volume } from "./volume.ts";

// Statements

interface BlockRow {
  lba: number;
  data: Uint8Array;
}

/** The row of `target` comes first, with LBA -1: without it, there is nothing to read from. */
interface TargetRow {
  lba: -1;
  block_count: number;
}

/** `target` is a query for one row (timeline_id, epoch, block_count), or none. */
async function selectBlocks(
  client: Client,
  { poolId, segmentBlocks }: Pool,
  target: ReturnType<typeof liveTarget>,
  { lba, blockCount }: BlockRange,
): Promise<(BlockRow | TargetRow)[]> {
  return await client<(BlockRow | TargetRow)[]>`
    with recursive target as (${target}), ${lineageOf(client, poolId)}
    select -1::bigint as lba, block_count, null as data from target
    union all
    select b.lba, null, found.data
    from line cross join generate_series(${lba}::bigint, ${lba + blockCount - 1}::bigint) as b (lba)
    cross join lateral (
      select newest.data
      from unnest(line.timeline_ids, line.epochs) with ordinality as l (timeline_id, epoch, depth)
      cross join lateral (
        select version.data
        from segment_map m cross join lateral (
          (
            select k.sequence, k.data from blocks k
            where k.pool_id = ${poolId} and k.device_id = m.device_id and k.segment_id = m.segment_id
              and k.block_index = (b.lba % ${segmentBlocks}::bigint)::integer
          ) union all (
            select c.sequence, substring(c.data from
              (b.lba % ${segmentBlocks}::bigint - c.first_block)::integer * (c.size_bytes / c.block_count)::integer + 1
              for (c.size_bytes / c.block_count)::integer)
            from cache c
            where c.pool_id = ${poolId} and c.segment_id = m.segment_id
              and b.lba % ${segmentBlocks}::bigint >= c.first_block
              and b.lba % ${segmentBlocks}::bigint < c.first_block + c.block_count
            order by c.sequence desc limit 1
          )
          order by sequence desc limit 1
        ) version
        where m.pool_id = ${poolId} and m.timeline_id = l.timeline_id and m.epoch <= l.epoch
          and m.slot = b.lba / ${segmentBlocks}::bigint
        order by m.epoch desc limit 1
      ) newest
      order by l.depth limit 1
    ) found
    where found.data is not null`;
}

function liveTarget(client: Client, { pool, volumeId }: Volume) {
  return client`
    select timeline_id, ${EPOCH_LIVE}::bigint as epoch, block_count from volumes
    where pool_id = ${pool.poolId} and volume_id = ${volumeId} and deleted_at is null`;
}

function snapshotTarget(client: Client, { timelineId, epoch }: CoveredVolume) {
  return client`select ${timelineId}::bigint as timeline_id, ${epoch}::bigint as epoch, 0::bigint as block_count`;
}

// Verbs

/**
 * The blocks of `range` of a volume as it is now: `blockCount × blockSizeBytes` bytes of the caller's own.
 *
 * @throws {StorageError} `lba-out-of-range`; `volume-not-found` when it was deleted.
 */
export async function readVolume(
  connection: Connection,
  volume: Volume,
  range: BlockRange,
): Promise<Uint8Array<ArrayBuffer>> {
  requireInside(range, Number.MAX_SAFE_INTEGER, "read");
  const { $client } = connection;
  const [target, ...rows] = await selectBlocks($client, volume.pool, liveTarget($client, volume), range);
  if (target === undefined) throw new StorageError("volume-not-found", `Cannot find volume ${volume.name}`);
  requireInside(range, (target as TargetRow).block_count, "read");
  return assemble(volume.pool, range, rows as BlockRow[]);
}

/**
 * The blocks of `range` of a volume as a snapshot has it.
 *
 * @throws {StorageError} `lba-out-of-range` for no range at all, `outside-snapshot` for blocks it does not cover.
 */
export async function readSnapshot(
  connection: Connection,
  pool: Pool,
  covered: CoveredVolume,
  range: BlockRange,
): Promise<Uint8Array<ArrayBuffer>> {
  requireInside(range, Number.MAX_SAFE_INTEGER, "read");
  if (range.lba < covered.lba || range.lba + range.blockCount > covered.lba + covered.blockCount) {
    throw new StorageError(
      "outside-snapshot",
      `Cannot read ${range.blockCount} blocks at LBA ${range.lba}: the snapshot covers ${covered.blockCount} from LBA ${covered.lba} on`,
    );
  }
  const { $client } = connection;
  const [_, ...rows] = await selectBlocks($client, pool, snapshotTarget($client, covered), range);
  return assemble(pool, range, rows as BlockRow[]);
}

function assemble(
  { blockSizeBytes }: Pool,
  { lba, blockCount }: BlockRange,
  rows: BlockRow[],
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(blockCount * blockSizeBytes);
  for (const row of rows) bytes.set(row.data, (row.lba - lba) * blockSizeBytes);
  return bytes;
}
