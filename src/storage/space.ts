/**
 * Space: the segments that volumes have taken, those that a snapshot holds alone (unique: they come back when it goes and
 * nothing else does), and those that it shares.
 *
 * All of it are counters. What a timeline and each of its epochs have taken is counted by the transactions that take and
 * return segments. So what a snapshot reads is a sum over epochs; what of it is unique is counted in the background
 * ({@linkcode countSpace}) whenever something happens that may change it ({@linkcode markChanged}), and is told with the moment
 * of the count.
 */

import type { Connection, Transaction } from "../database/client.ts";
import { bigintsLiteral, uuidLiteral } from "../database/literal.ts";
import { type CoveredVolume, isWhole } from "./covered.ts";
import type { Pool } from "./pool.ts";
import { lineageOf, type TimelinePoint } from "./timeline.ts";

/** What a snapshot takes, in bytes of whole segments. */
export interface SnapshotSpace {
  /** What comes back when it alone goes, as of `countedAt`. */
  readonly uniqueBytes: number;
  /** What it reads besides. */
  readonly sharedBytes: number;
  /** Absent before the first count; nothing is unique to a snapshot that was just taken. */
  readonly countedAt?: Date;
}

// Statements

/** The statements that count what an append has taken. The pool is locked when they run. */
export function formatTakenSpace(poolId: string, taken: TimelinePoint[]): string[] {
  const pool = uuidLiteral(poolId);
  // In one order, for who counts them locks such rows too.
  const byEpoch = [...Map.groupBy(taken, ({ timelineId, epoch }) => `${timelineId} ${epoch}`).values()]
    .toSorted(([a], [b]) => a.timelineId - b.timelineId || a.epoch - b.epoch);
  const timelineIds = bigintsLiteral(byEpoch.map(([{ timelineId }]) => timelineId));
  const segments = bigintsLiteral(byEpoch.map((group) => group.length));
  return [
    `update timelines t set segments_mapped = segments_mapped + r.segments
      from unnest(${timelineIds}, ${segments}) as r (timeline_id, segments)
      where t.pool_id = ${pool} and t.timeline_id = r.timeline_id`,
    `insert into epoch_space as e (pool_id, timeline_id, epoch, segments)
      select ${pool}, * from unnest(${timelineIds}, ${
      bigintsLiteral(byEpoch.map(([{ epoch }]) => epoch))
    }, ${segments})
      on conflict (pool_id, timeline_id, epoch) do update
      set segments = e.segments + excluded.segments, counted = false`,
  ];
}

/** Begins the counters of a new snapshot: nothing is unique to it, and what it reads of selected blocks is to be counted. */
export async function insertSpace(
  { $client }: Transaction,
  poolId: string,
  snapshotId: string,
  covered: CoveredVolume[],
): Promise<void> {
  const changed = covered.every(isWhole) ? 0 : 1;
  await $client`
    insert into snapshot_space (pool_id, snapshot_id, changed) values (${poolId}, ${snapshotId}, ${changed})`;
}

/** Ends the counters of a snapshot that goes. */
export async function deleteSpace(
  { $client }: Transaction,
  poolId: string,
  snapshotId: string,
): Promise<void> {
  await $client`delete from snapshot_space where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
}

/** Counts what was returned of a closed epoch. Appends need these rows, so it comes last. */
export async function countReturned(
  { $client }: Transaction,
  poolId: string,
  { timelineId, epoch }: TimelinePoint,
  segments: number,
): Promise<void> {
  await Promise.all([
    $client`
      update timelines set segments_mapped = segments_mapped - ${segments}::bigint
      where pool_id = ${poolId} and timeline_id = ${timelineId}`,
    $client`
      update epoch_space set segments = segments - ${segments}::bigint
      where pool_id = ${poolId} and timeline_id = ${timelineId} and epoch = ${epoch}`,
    $client`
      delete from epoch_space
      where pool_id = ${poolId} and timeline_id = ${timelineId} and epoch = ${epoch} and segments = 0`,
  ]);
}

/** Counts for another timeline what was taken of closed epochs, which are to be counted anew. Appends need these rows, so it comes last. */
export async function moveTaken(
  { $client }: Transaction,
  poolId: string,
  fromId: number,
  toId: number,
  moved: readonly { epoch: number; segments: number }[],
): Promise<void> {
  const epochs = moved.map(({ epoch }) => epoch);
  const segments = moved.map((row) => row.segments);
  const total = segments.reduce((sum, count) => sum + count, 0);
  await Promise.all([
    $client`
      update epoch_space e set segments = e.segments - r.segments
      from unnest(${epochs}::bigint[], ${segments}::bigint[]) as r (epoch, segments)
      where e.pool_id = ${poolId} and e.timeline_id = ${fromId} and e.epoch = r.epoch`,
    $client`
      delete from epoch_space
      where pool_id = ${poolId} and timeline_id = ${fromId} and epoch = any(${epochs}::bigint[]) and segments = 0`,
    $client`
      insert into epoch_space as e (pool_id, timeline_id, epoch, segments)
      select ${poolId}, ${toId}, * from unnest(${epochs}::bigint[], ${segments}::bigint[])
      on conflict (pool_id, timeline_id, epoch) do update
      set segments = e.segments + excluded.segments, counted = false`,
    $client`
      update timelines set segments_mapped = segments_mapped - ${total}::bigint
      where pool_id = ${poolId} and timeline_id = ${fromId}`,
    $client`
      update timelines set segments_mapped = segments_mapped + ${total}::bigint
      where pool_id = ${poolId} and timeline_id = ${toId}`,
  ]);
}

/** Takes an epoch that has taken segments of which no snapshot knows. */
export async function takeUncounted(
  { $client }: Transaction,
  poolId: string,
): Promise<TimelinePoint | undefined> {
  const [row] = await $client<{ timeline_id: number; epoch: number }[]>`
    update epoch_space e set counted = true
    from (
      select timeline_id, epoch from epoch_space where pool_id = ${poolId} and not counted
      order by timeline_id, epoch limit 1 for update
    ) u
    where e.pool_id = ${poolId} and e.timeline_id = u.timeline_id and e.epoch = u.epoch
    returning e.timeline_id, e.epoch`;
  return row === undefined ? undefined : { timelineId: row.timeline_id, epoch: row.epoch };
}

interface SpaceRow {
  unique_segments: number;
  read_segments: number;
  counted_at: string | null;
}

/** A timeline that several covered volumes go back to is read up to the youngest of their epochs. */
async function selectSpace(
  { $client: client }: Connection,
  poolId: string,
  snapshotId: string,
  whole: TimelinePoint[],
): Promise<SpaceRow | undefined> {
  const [row] = await client<SpaceRow[]>`
    with recursive target as (
      select * from unnest(${whole.map(({ timelineId }) => timelineId)}::bigint[],
        ${whole.map(({ epoch }) => epoch)}::bigint[]) with ordinality as t (timeline_id, epoch, ordinal)
    ), ${lineageOf(client, poolId)}
    select x.unique_segments, x.counted_at, x.ranged_segments + (
        select coalesce(sum(e.segments), 0)::bigint
        from (select timeline_id, max(epoch) as epoch from lineage group by timeline_id) l
        join epoch_space e on e.pool_id = ${poolId} and e.timeline_id = l.timeline_id and e.epoch <= l.epoch
      ) as read_segments
    from snapshot_space x where x.pool_id = ${poolId} and x.snapshot_id = ${snapshotId}`;
  return row;
}

// Verbs

/** What a snapshot takes; nothing when it is gone or cancelled. */
export async function getSnapshotSpace(
  connection: Connection,
  { poolId, segmentBlocks, blockSizeBytes }: Pool,
  snapshotId: string,
  covered: CoveredVolume[],
): Promise<SnapshotSpace | undefined> {
  const row = await selectSpace(connection, poolId, snapshotId, covered.filter(isWhole));
  if (row === undefined) return undefined;
  const segmentBytes = segmentBlocks * blockSizeBytes;
  return {
    uniqueBytes: row.unique_segments * segmentBytes,
    sharedBytes: Math.max(0, row.read_segments - row.unique_segments) * segmentBytes,
    ...(row.counted_at === null ? {} : { countedAt: new Date(row.counted_at) }),
  };
}
