/**
 * How the queues of all pools stand, in figures that cost little: counters that are there, one row of each queue, and counts that
 * end at a bound. They are of the pool, whichever process appends or flushes.
 */

import type { Database } from "../database/client.ts";

/** Pools told of; the oldest ones. */
const POOLS_MAX = 100;
/** What is waiting is counted up to here. */
const WAITING_MAX = 10_000;

export interface PoolFigures {
  readonly name: string;
  readonly cacheBytesMax: number;
  /** Since the pool was made, as the next three. What is written through counts as both. */
  readonly entriesAppended: number;
  readonly bytesAppended: number;
  readonly entriesFlushed: number;
  readonly bytesFlushed: number;
  /** When the oldest entry of the queue was appended; null for an empty queue. */
  readonly oldestAt: Date | null;
  readonly snapshotsPending: number;
  readonly reclaimsWaiting: number;
  /** Found by the last scrubs of the pool's devices. */
  readonly scrubCorruptBlocks: number;
  /** Sealed snapshots that nobody has read yet. */
  readonly digestsPending: number;
  readonly snapshotsDamaged: number;
  readonly segmentCount: number;
  readonly freeSegments: number;
}

interface FiguresRow {
  name: string;
  cache_bytes_max: number;
  sequence_appended: number;
  bytes_appended: number;
  entries_flushed: number;
  bytes_flushed: number;
  oldest_at: string | null;
  snapshots_pending: number;
  reclaims_waiting: number;
  scrub_corrupt_blocks: number;
  digests_pending: number;
  snapshots_damaged: number;
  segment_count: number;
  taken_segments: number;
}

/** The figures of the pools, in order of creation. */
export async function readPoolFigures({ $client }: Database): Promise<PoolFigures[]> {
  const rows = await $client<FiguresRow[]>`
    select p.name, p.cache_bytes_max, h.sequence_appended,
      h.bytes_appended + h.bytes_through as bytes_appended, t.entries_flushed + h.entries_through as entries_flushed,
      t.bytes_flushed + h.bytes_through as bytes_flushed,
      (
        select c.appended_at from cache c where c.pool_id = p.pool_id and c.sequence > t.sequence_flushed
        order by c.sequence limit 1
      ) as oldest_at,
      (
        select count(*) from (
          select from snapshots s
          where s.pool_id = p.pool_id and s.marker_sequence > t.sequence_flushed and s.status = 'pending'
          limit ${WAITING_MAX}
        ) pending
      ) as snapshots_pending,
      (
        select count(*) from (select from reclaims r where r.pool_id = p.pool_id limit ${WAITING_MAX}) waiting
      ) as reclaims_waiting,
      (
        select coalesce(sum(s.blocks_corrupt), 0)::bigint from scrubs s where s.pool_id = p.pool_id
      ) as scrub_corrupt_blocks,
      (
        select count(*) from (
          select from snapshots s where s.pool_id = p.pool_id and s.status = 'sealed' and s.checked_at is null
          limit ${WAITING_MAX}
        ) unchecked
      ) as digests_pending,
      (
        select count(*) from (
          select from snapshots s where s.pool_id = p.pool_id and not s.intact limit ${WAITING_MAX}
        ) damaged
      ) as snapshots_damaged,
      d.segment_count, d.taken_segments
    from (select * from pools order by pool_id limit ${POOLS_MAX}) p
    join pool_heads h on h.pool_id = p.pool_id
    join pool_tails t on t.pool_id = p.pool_id
    cross join lateral (
      select coalesce(sum(d.segment_count), 0)::bigint as segment_count,
        coalesce(sum(d.segments_touched - d.segments_returned), 0)::bigint as taken_segments
      from devices d where d.pool_id = p.pool_id
    ) d
    order by p.pool_id`;
  return rows.map((row) => ({
    name: row.name,
    cacheBytesMax: row.cache_bytes_max,
    entriesAppended: row.sequence_appended,
    bytesAppended: row.bytes_appended,
    entriesFlushed: row.entries_flushed,
    bytesFlushed: row.bytes_flushed,
    oldestAt: row.oldest_at === null ? null : new Date(row.oldest_at),
    snapshotsPending: row.snapshots_pending,
    reclaimsWaiting: row.reclaims_waiting,
    scrubCorruptBlocks: row.scrub_corrupt_blocks,
    digestsPending: row.digests_pending,
    snapshotsDamaged: row.snapshots_damaged,
    segmentCount: row.segment_count,
    freeSegments: row.segment_count - row.taken_segments,
  }));
}
