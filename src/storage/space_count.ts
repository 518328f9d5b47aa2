/**
 * Counting what a snapshot holds alone, in the background: what is unique to it.
 *
 * A segment is unique to a snapshot when somebody needs it as things are, and nobody would if the snapshot were gone. Needed
 * is what the first reader of its slot would find before any younger segment. A timeline that only the snapshot reads would go
 * with it, and then no longer read the one that it started from. One that only the snapshot keeps from being merged into another
 * ({@linkcode findHeir}) would be, and then what the other has overwritten is not needed.
 */

import type { Client, Connection, Database } from "../database/client.ts";
import type { Pool } from "./pool.ts";
import { type Absent, firstReader, onlyChild, type ReadTimeline, wholeReaderBelow } from "./slot_reader.ts";
import { EPOCH_LIVE, lineageOf, type TimelinePoint } from "./timeline.ts";

/** Rows of the map that one statement of a count looks at. */
const COUNT_ROWS_MAX = 4096;

/** Timelines that a count follows from child to parent. */
const TIMELINES_MAX = 1000;

/** A snapshot whose count is due, and how many marks it had then. */
export interface DueCount {
  readonly snapshotId: string;
  readonly changed: number;
}

// Statements

/** Up to `countMax` snapshots whose count is due. */
export async function listDueCounts(
  { $client }: Connection,
  poolId: string,
  countMax: number,
): Promise<DueCount[]> {
  const rows = await $client<{ snapshot_id: string; changed: number }[]>`
    select snapshot_id, changed from snapshot_space
    where pool_id = ${poolId} and changed > counted order by snapshot_id limit ${countMax}`;
  return rows.map((row) => ({ snapshotId: row.snapshot_id, changed: row.changed }));
}

interface CoveredRow {
  timeline_id: number;
  epoch: number;
}

async function selectPoints(
  { $client }: Connection,
  poolId: string,
  snapshotId: string,
): Promise<TimelinePoint[]> {
  const rows = await $client<CoveredRow[]>`
    select timeline_id, epoch from snapshot_volumes where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
  return rows.map((row) => ({ timelineId: row.timeline_id, epoch: row.epoch }));
}

/** Of `timelineIds`, those that nobody reads but who is absent, with what they started from. */
async function selectDead(
  { $client }: Connection,
  poolId: string,
  timelineIds: number[],
  absent: Absent,
): Promise<{ timelineId: number; parent?: TimelinePoint }[]> {
  const rows = await $client<
    { timeline_id: number; parent_timeline_id: number | null; parent_epoch: number | null }[]
  >`
    select t.timeline_id, t.parent_timeline_id, t.parent_epoch from timelines t
    where t.pool_id = ${poolId} and t.timeline_id = any(${timelineIds}::bigint[])
      and not exists (
        select from snapshot_volumes v join snapshots s on s.pool_id = v.pool_id and s.snapshot_id = v.snapshot_id
        where v.pool_id = ${poolId} and v.timeline_id = t.timeline_id and v.snapshot_id <> ${absent.snapshotId}
          and s.status in ('pending', 'sealed')
      )
      and not exists (
        select from timelines c where c.pool_id = ${poolId} and c.parent_timeline_id = t.timeline_id
          and c.timeline_id <> all(${absent.timelineIds}::bigint[])
      )
      and not exists (
        select from volumes l where l.pool_id = ${poolId} and l.timeline_id = t.timeline_id and l.deleted_at is null
      )`;
  return rows.map(({ timeline_id: timelineId, parent_timeline_id: parentId, parent_epoch: epoch }) => ({
    timelineId,
    ...(parentId === null || epoch === null ? {} : { parent: { timelineId: parentId, epoch } }),
  }));
}

interface TimelineRow {
  live_epoch: number | null;
  above: number;
}

async function selectTimeline(
  { $client }: Connection,
  poolId: string,
  timelineId: number,
  lowest: number,
): Promise<TimelineRow | undefined> {
  const [row] = await $client<TimelineRow[]>`
    select ${wholeReaderBelow($client, poolId, timelineId, lowest)} as above, (
        select t.open_epoch from volumes l
        where l.pool_id = ${poolId} and l.timeline_id = t.timeline_id and l.deleted_at is null limit 1
      ) as live_epoch
    from timelines t where t.pool_id = ${poolId} and t.timeline_id = ${timelineId}`;
  return row;
}

/** What a timeline would be merged into: what that would be made of, and the timeline whose readers are left in the end. */
interface Heir {
  readonly between: TimelinePoint[];
  readonly last: ReadTimeline;
}

interface CountRow {
  found: number;
  alone: number;
  last_epoch: number;
  last_slot: number;
}

/** Of the next rows with an epoch up to `until`, those that are needed, and would not be if `absent` were gone. */
async function countAlone(
  { $client }: Connection,
  poolId: string,
  timeline: ReadTimeline,
  absent: Absent,
  heir: Heir | undefined,
  { until, after }: { until: number; after: { epoch: number; slot: number } },
): Promise<CountRow | undefined> {
  const { timelineId } = timeline;
  const isInherited = heir === undefined
    ? $client``
    : $client`and ${isNeededByHeir($client, poolId, heir, absent)}`;
  const isNeeded = (reader: "now" | "then") =>
    $client`${$client(reader)}.epoch is not null and not exists (
      select from segment_map y where y.pool_id = ${poolId} and y.timeline_id = ${timelineId} and y.slot = m.slot
        and y.epoch > m.epoch and y.epoch <= ${$client(reader)}.epoch
    )`;
  const [row] = await $client<CountRow[]>`
    select count(*) as found, count(*) filter (where needed and not still_needed) as alone,
      (array_agg(epoch order by epoch desc, slot desc))[1] as last_epoch,
      (array_agg(slot order by epoch desc, slot desc))[1] as last_slot
    from (
      select m.epoch, m.slot, ${isNeeded("now")} as needed, ${isNeeded("then")} ${isInherited} as still_needed
      from (
        select slot, epoch from segment_map
        where pool_id = ${poolId} and timeline_id = ${timelineId} and epoch <= ${until}
          and (epoch, slot) > (${after.epoch}::bigint, ${after.slot}::bigint)
        order by epoch, slot limit ${COUNT_ROWS_MAX}
      ) m
      cross join lateral (select ${firstReader($client, poolId, timeline)} as epoch) now
      cross join lateral (select ${firstReader($client, poolId, timeline, absent)} as epoch) "then"
    ) judged`;
  return row.found === 0 ? undefined : row;
}

/** Whether the readers of the heir would find map row `m`, which has a slot and an epoch. */
function isNeededByHeir(client: Client, poolId: string, { between, last }: Heir, absent: Absent) {
  return client`exists (
    select from (select ${firstReader(client, poolId, last, absent)} as epoch) heir
    where heir.epoch is not null and not exists (
      select from unnest(${between.map(({ timelineId }) => timelineId)}::bigint[],
        ${between.map(({ epoch }) => epoch)}::bigint[]) as b (timeline_id, epoch)
      join segment_map y on y.pool_id = ${poolId} and y.timeline_id = b.timeline_id and y.slot = m.slot
        and y.epoch <= b.epoch
    ) and not exists (
      select from segment_map y
      where y.pool_id = ${poolId} and y.timeline_id = ${last.timelineId} and y.slot = m.slot and y.epoch <= heir.epoch
    )
  )`;
}

/** The segments that a snapshot reads of volumes that it covers in part, and of none that it covers whole. */
async function countRanged({ $client: client }: Connection, pool: Pool, snapshotId: string): Promise<number> {
  const { poolId, segmentBlocks } = pool;
  const [{ segments }] = await client<[{ segments: number }]>`
    with recursive target as (
      select row_number() over (order by volume_id) as ordinal, timeline_id, epoch, covered,
        covered @> int8range(0, volume_blocks) as whole
      from snapshot_volumes where pool_id = ${poolId} and snapshot_id = ${snapshotId}
    ), ${lineageOf(client, poolId)},
    read_whole as (
      select l.timeline_id, max(l.epoch) as epoch from lineage l join target t on t.ordinal = l.ordinal
      where t.whole group by l.timeline_id
    ),
    read_ranged as (
      select distinct m.timeline_id, m.slot, m.epoch
      from target t join lineage l on l.ordinal = t.ordinal
      cross join unnest(t.covered) as r
      join segment_map m on m.pool_id = ${poolId} and m.timeline_id = l.timeline_id
        and m.slot between lower(r) / ${segmentBlocks}::bigint and (upper(r) - 1) / ${segmentBlocks}::bigint
        and m.epoch <= l.epoch
      where not t.whole
    )
    select count(*) as segments from read_ranged r
    where not exists (
      select from read_whole w where w.timeline_id = r.timeline_id and w.epoch >= r.epoch
    )`;
  return segments;
}

async function storeCount(
  { $client }: Connection,
  poolId: string,
  { snapshotId, changed }: DueCount,
  { unique, ranged }: { unique: number; ranged: number },
  at: Date,
): Promise<void> {
  await $client`
    update snapshot_space set unique_segments = ${unique}, ranged_segments = ${ranged}, counted = ${changed},
      counted_at = ${at.toISOString()}
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} and counted < ${changed}`;
}

// Verbs

/**
 * Counts what a snapshot holds alone, and stores it. Reads in bounded statements and locks nothing: what changes meanwhile
 * is a mark, and a reason to count again.
 *
 * @param stopping ends it before it is through; nothing is stored then.
 */
export async function countSpace(
  database: Database,
  pool: Pool,
  due: DueCount,
  at: Date,
  stopping: () => boolean,
): Promise<void> {
  const { absent, removed } = await findRemoved(database, pool.poolId, due.snapshotId);
  let unique = 0;
  for (const [timelineId, epochs] of removed) {
    const counted = await countTimeline(database, pool, timelineId, epochs, absent, stopping);
    if (counted === undefined) return;
    unique += counted;
  }
  const ranged = await countRanged(database, pool, due.snapshotId);
  await storeCount(database, pool.poolId, due, { unique, ranged }, at);
}

/** Which epochs of which timelines would lose a reader if the snapshot went, and the readers that would go with it. */
async function findRemoved(
  connection: Connection,
  poolId: string,
  snapshotId: string,
): Promise<{ absent: Absent; removed: Map<number, number[]> }> {
  const removed = new Map<number, number[]>();
  const dead = new Set<number>();
  let added = await selectPoints(connection, poolId, snapshotId);
  while (added.length > 0 && removed.size < TIMELINES_MAX) {
    for (const { timelineId, epoch } of added) {
      removed.set(timelineId, [...removed.get(timelineId) ?? [], epoch]);
    }
    const alive = [...removed.keys()].filter((id) => !dead.has(id));
    const found = await selectDead(connection, poolId, alive, { snapshotId, timelineIds: [...dead] });
    for (const { timelineId } of found) dead.add(timelineId);
    added = found.flatMap(({ parent }) => parent === undefined ? [] : [parent]);
  }
  return { absent: { snapshotId, timelineIds: [...dead] }, removed };
}

/** What a timeline would be merged into if `absent` were gone; nothing where it would stay. */
async function findHeir(
  { $client }: Connection,
  poolId: string,
  { timelineId, segmentBlocks }: ReadTimeline,
  absent: Absent,
): Promise<Heir | undefined> {
  const line: (TimelinePoint & { liveEpoch: number | null })[] = [];
  for (let id = timelineId; line.length < TIMELINES_MAX;) {
    const [row] = await $client<{ timeline_id: number; parent_epoch: number; live_epoch: number | null }[]>`
      select c.timeline_id, c.parent_epoch, (
          select c.open_epoch from volumes l
          where l.pool_id = ${poolId} and l.timeline_id = c.timeline_id and l.deleted_at is null limit 1
        ) as live_epoch
      from ${onlyChild($client, poolId, id, absent)}`;
    if (row === undefined) break;
    line.push({ timelineId: row.timeline_id, epoch: row.parent_epoch, liveEpoch: row.live_epoch });
    id = row.timeline_id;
  }
  const last = line.at(-1);
  if (last === undefined) return undefined;
  // Each is read up to where the next one starts.
  const between = line.slice(0, -1).map((one, index) => ({
    timelineId: one.timelineId,
    epoch: line[index + 1].epoch,
  }));
  return { between, last: { timelineId: last.timelineId, segmentBlocks, liveEpoch: last.liveEpoch } };
}

async function countTimeline(
  connection: Connection,
  { poolId, segmentBlocks }: Pool,
  timelineId: number,
  epochs: number[],
  absent: Absent,
  stopping: () => boolean,
): Promise<number | undefined> {
  const found = await selectTimeline(connection, poolId, timelineId, Math.min(...epochs));
  if (found === undefined) return 0;
  const timeline = { timelineId, segmentBlocks, liveEpoch: found.live_epoch };
  const heir = await findHeir(connection, poolId, timeline, absent);
  // What is merged is looked at as a whole.
  const until = heir === undefined ? Math.max(...epochs) : EPOCH_LIVE;
  let after = { epoch: heir === undefined ? found.above : -1, slot: Number.MAX_SAFE_INTEGER };
  let alone = 0;
  while (!stopping()) {
    const row = await countAlone(connection, poolId, timeline, absent, heir, { until, after });
    if (row === undefined) return alone;
    alone += row.alone;
    after = { epoch: row.last_epoch, slot: row.last_slot };
  }
  return undefined;
}
