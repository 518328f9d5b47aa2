/**
 * Reclaim: segments that no reader needs any more go back to the free list.
 *
 * The readers of a timeline are its live volume, the snapshots on it, and the timelines that start from it. Each reads up to an
 * epoch, and a snapshot of selected blocks only the slots that they lie in. Two segments of one slot whose epochs lie between
 * the same two readers of that slot cannot be told apart: what the younger lacks is moved into it, and the older is free. Above
 * the youngest reader nothing is read at all. A timeline without readers goes as a whole, and was a reader of the one it started from.
 * One that only one other reads is merged into it ({@linkcode stepMerge}), and then what that has overwritten of it is looked at.
 *
 * Why that needs no pool lock, and holds up no append:
 * - An epoch that is closed gets no more entries, and only segments of closed epochs are freed, when none of their entries is left in
 *   the cache. The open epoch's map, which appends remember, is never changed.
 * - Readers come and go under the pool's lock, and none can come back to an epoch that nobody reads: whoever starts from a snapshot
 *   finds it there. New ones read at least the epoch that was open. So a list of readers may be old, as long as nothing
 *   is merged into an epoch that was opened after it was read.
 * - A block that is moved keeps its sequence, so a newer one of the younger segment, flushed or not, goes on to win.
 *
 * Without a reader that goes, rows become equal in a live volume's open epoch: where the newest reader does not read all slots, or
 * went while nothing was written. So when a snapshot closes such an epoch, what that has overwritten is looked at too.
 *
 * The youngest rows go first, so that a block moves once, into what is left in the end, and not from one epoch to the next.
 *
 * A step is one bounded transaction. It holds the pool's tail, the right to move blocks, so it and the flusher take turns.
 * Killed anywhere, it did nothing.
 */

import type { Transaction } from "../database/client.ts";
import { appendEvent } from "./event.ts";
import {
  appendMerge,
  appendReclaims,
  deleteCoveredTasks,
  deleteTask,
  lockTask,
  moveTask,
  type ReclaimTask,
} from "./reclaim_task.ts";
import { firstReader, snapshotsReading, timelinesReading, wholeReaderBelow } from "./slot_reader.ts";
import { countReturned } from "./space.ts";
import { markChanged } from "./space_change.ts";
import type { TimelinePoint } from "./timeline.ts";
import { isMergeable, stepMerge } from "./timeline_merge.ts";

/** Rows of the map that one step looks at. */
const ROWS_MAX = 64;

/** What a step did. */
export interface Reclaimed {
  /** Nothing is left to look at. */
  readonly idle: boolean;
  readonly segmentsReturned: number;
}

// Statements

interface Readers {
  /** Somebody still reads all slots of just this epoch. */
  read: boolean;
  /** The nearest older epoch of which somebody reads all slots: rows up to it are not in question. */
  above: number;
  /** Somebody reads the timeline at all. */
  any: boolean;
  live: boolean;
  open_epoch: number | null;
  segment_blocks: number;
}

async function selectReaders(tx: Transaction, poolId: string, task: ReclaimTask): Promise<Readers> {
  const { $client } = tx;
  const { timeline_id: timelineId, epoch } = task;
  const snapshots = snapshotsReading($client, poolId, timelineId);
  const timelines = timelinesReading($client, poolId, timelineId);
  const [row] = await $client<[Readers]>`
    select exists (select from ${timelines} and parent_epoch = ${epoch}) as read,
      ${wholeReaderBelow($client, poolId, timelineId, epoch)} as above,
      exists (select from ${snapshots}) or exists (select from ${timelines}) as any,
      exists (
        select from volumes where pool_id = ${poolId} and timeline_id = ${timelineId} and deleted_at is null
      ) as live,
      (select open_epoch from timelines where pool_id = ${poolId} and timeline_id = ${timelineId}) as open_epoch,
      (select segment_blocks from pools where pool_id = ${poolId}) as segment_blocks`;
  return row;
}

interface Row {
  /** How far the task has come with it. */
  at_epoch: number;
  at_slot: number;
  slot: number;
  epoch: number;
  segment_id: number;
  device_id: string;
  /** Somebody would find it. */
  read: boolean;
  /** Entries of it are still in the cache. */
  queued: boolean;
  younger_segment_id: number | null;
  younger_device_id: string | null;
}

/** A row in question, or how far the task has come without one. */
type LookedAt = Row | (Pick<Row, "at_epoch" | "at_slot"> & { segment_id: null });

/** The next rows in question. */
function candidates({ $client }: Transaction, poolId: string, task: ReclaimTask, above: number) {
  const { timeline_id: timelineId, epoch, done_epoch: doneEpoch, done_slot: doneSlot } = task;
  if (task.kind === "reader") {
    const [belowEpoch, belowSlot] = doneEpoch < 0 ? [epoch + 1, 0] : [doneEpoch, doneSlot];
    return $client`(
      select epoch as at_epoch, slot as at_slot, slot, epoch, segment_id, device_id from segment_map
      where pool_id = ${poolId} and timeline_id = ${timelineId} and epoch > ${above}
        and (epoch, slot) < (${belowEpoch}::bigint, ${belowSlot}::bigint)
      order by epoch desc, slot desc limit ${ROWS_MAX}
    )`;
  }
  // Of each slot that the closed epoch has, what was there before.
  return $client`(
    select c.epoch as at_epoch, c.slot as at_slot, o.slot, o.epoch, o.segment_id, o.device_id
    from (
      select epoch, slot from segment_map
      where pool_id = ${poolId} and timeline_id = ${timelineId} and epoch = ${epoch} and slot > ${doneSlot}
      order by slot limit ${ROWS_MAX}
    ) c
    left join lateral (
      select slot, epoch, segment_id, device_id from segment_map
      where pool_id = ${poolId} and timeline_id = ${timelineId} and slot = c.slot and epoch < ${epoch}
        and epoch > ${above}
      order by epoch desc limit 1
    ) o on true
  )`;
}

/**
 * The next rows in question; for each the reader of its slot that would find it, and the youngest segment that this reader
 * finds before. A live volume reads up to its open epoch.
 */
async function selectRows(
  tx: Transaction,
  poolId: string,
  task: ReclaimTask,
  readers: Readers,
): Promise<LookedAt[]> {
  const { $client } = tx;
  const { timeline_id: timelineId } = task;
  const { above, live, open_epoch: openEpoch, segment_blocks: segmentBlocks } = readers;
  const timeline = { timelineId, segmentBlocks, liveEpoch: live ? openEpoch : null };
  return await $client<LookedAt[]>`
    select m.at_epoch, m.at_slot, m.slot, m.epoch, m.segment_id, m.device_id, r.epoch is not null as read,
      exists (select from cache c where c.pool_id = ${poolId} and c.segment_id = m.segment_id) as queued,
      y.segment_id as younger_segment_id, y.device_id as younger_device_id
    from ${candidates(tx, poolId, task, above)} m
    cross join lateral (select ${firstReader($client, poolId, timeline)} as epoch) r
    left join lateral (
      select segment_id, device_id from segment_map
      where pool_id = ${poolId} and timeline_id = ${timelineId} and slot = m.slot and epoch > m.epoch
        and epoch <= r.epoch
      order by epoch limit 1
    ) y on true
    order by ${task.kind === "closed" ? $client`m.at_slot` : $client`m.at_epoch desc, m.at_slot desc`}`;
}

/** What the younger segment has, it keeps. In the order of their keys, like all who write blocks. */
async function moveBlocks(tx: Transaction, poolId: string, rows: Row[]): Promise<void> {
  const moved = rows.filter((row) => row.younger_segment_id !== null).toSorted(compareYounger);
  if (moved.length === 0) return;
  await tx.$client`
    insert into blocks (pool_id, device_id, segment_id, block_index, sequence, data, checksum)
    select k.pool_id, r.younger_device_id, r.younger_segment_id, k.block_index, k.sequence, k.data, k.checksum
    from unnest(${moved.map((row) => row.device_id)}::uuid[], ${moved.map((row) => row.segment_id)}::bigint[],
      ${moved.map((row) => row.younger_device_id as string)}::uuid[],
      ${moved.map((row) => row.younger_segment_id as number)}::bigint[])
      as r (device_id, segment_id, younger_device_id, younger_segment_id)
    cross join lateral (
      select pool_id, block_index, sequence, data, checksum from blocks
      where pool_id = ${poolId} and device_id = r.device_id and segment_id = r.segment_id
      order by block_index
    ) k
    on conflict (pool_id, device_id, segment_id, block_index) do nothing`;
}

function compareYounger(a: Row, b: Row): number {
  const [deviceA, deviceB] = [a.younger_device_id as string, b.younger_device_id as string];
  if (deviceA !== deviceB) return deviceA < deviceB ? -1 : 1;
  return (a.younger_segment_id as number) - (b.younger_segment_id as number);
}

async function deleteBlocks(tx: Transaction, poolId: string, rows: Row[]): Promise<void> {
  await tx.$client`
    delete from blocks b
    using unnest(${rows.map((row) => row.device_id)}::uuid[], ${rows.map((row) => row.segment_id)}::bigint[])
      as r (device_id, segment_id)
    where b.pool_id = ${poolId} and b.device_id = r.device_id and b.segment_id = r.segment_id`;
}

async function deleteMapped(tx: Transaction, poolId: string, timelineId: number, rows: Row[]): Promise<void> {
  await tx.$client`
    delete from segment_map m
    using unnest(${rows.map((row) => row.slot)}::bigint[], ${rows.map((row) => row.epoch)}::bigint[])
      as r (slot, epoch)
    where m.pool_id = ${poolId} and m.timeline_id = ${timelineId} and m.slot = r.slot and m.epoch = r.epoch`;
}

async function insertFree(tx: Transaction, poolId: string, rows: Row[]): Promise<void> {
  await tx.$client`
    insert into free_segments (pool_id, segment_id, device_id)
    select ${poolId}, * from unnest(${rows.map((row) => row.segment_id)}::bigint[],
      ${rows.map((row) => row.device_id)}::uuid[])`;
}

async function countOnDevices(tx: Transaction, poolId: string, rows: Row[]): Promise<void> {
  await tx.$client`
    update devices d set segments_returned = segments_returned + r.segments
    from (
      select device_id, count(*) as segments
      from unnest(${rows.map((row) => row.device_id)}::uuid[]) as u (device_id) group by device_id
    ) r
    where d.pool_id = ${poolId} and d.device_id = r.device_id`;
}

/** Removes a timeline that maps nothing, and answers what it started from. */
async function deleteTimeline(
  tx: Transaction,
  poolId: string,
  timelineId: number,
): Promise<TimelinePoint | undefined> {
  const [row] = await tx.$client<{ parent_timeline_id: number | null; parent_epoch: number }[]>`
    delete from timelines t where pool_id = ${poolId} and timeline_id = ${timelineId}
      and not exists (select from segment_map m where m.pool_id = ${poolId} and m.timeline_id = t.timeline_id)
    returning parent_timeline_id, parent_epoch`;
  return row === undefined || row.parent_timeline_id === null
    ? undefined
    : { timelineId: row.parent_timeline_id, epoch: row.parent_epoch };
}

// Verbs

/** One step of reclaiming in a pool. */
export async function reclaimStep(tx: Transaction, poolId: string, at: Date): Promise<Reclaimed> {
  const found = await lockTask(tx, poolId);
  if (found === undefined) return { idle: true, segmentsReturned: 0 };
  if (found.kind === "merge") return await mergeTimeline(tx, poolId, found, at);
  const readers = await selectReaders(tx, poolId, found);
  if ((readers.read && found.kind === "reader") || readers.open_epoch === null) {
    await deleteTask(tx, poolId, found);
    if (await isMergeable(tx, poolId, found.timeline_id)) {
      await appendMerge(tx, poolId, found.timeline_id, at);
    }
    await markChanged(tx, poolId, { timelineId: found.timeline_id, epoch: found.epoch });
    return { idle: false, segmentsReturned: 0 };
  }
  const covered = found.kind === "closed" ? 0 : await deleteCoveredTasks(tx, poolId, found, readers.above);
  const task = { ...found, segments_returned: found.segments_returned + covered };
  const lookedAt = takeUnchained(await selectRows(tx, poolId, task, readers));
  if (lookedAt.length === 0) return await endRound(tx, poolId, task, readers, at);
  const rows = lookedAt.filter((row): row is Row => row.segment_id !== null);
  const freed = rows.filter((row) => !row.queued && (!row.read || row.younger_segment_id !== null));
  // Below what a closed epoch has overwritten there may be more, so its slots are looked at until nothing is freed.
  const last = task.kind === "closed" && freed.length > 0 ? undefined : lookedAt.at(-1);
  await Promise.all([
    moveTask(tx, poolId, {
      ...task,
      done_epoch: last?.at_epoch ?? task.done_epoch,
      done_slot: last?.at_slot ?? task.done_slot,
      waiting: task.waiting || rows.some(({ queued }) => queued),
      segments_returned: task.segments_returned + freed.length,
    }, at),
    freed.length === 0 ? undefined : freeRows(tx, poolId, task.timeline_id, freed),
  ]);
  return { idle: false, segmentsReturned: freed.length };
}

/**
 * Moves what rows have to their younger segments, takes them out of the map and puts their segments on the free list. The counters
 * come last: appends need them. Statements on one connection are carried out in the order in which they are sent.
 */
async function freeRows(tx: Transaction, poolId: string, timelineId: number, rows: Row[]): Promise<void> {
  const byEpoch = [...Map.groupBy(rows, (row) => row.epoch)];
  await Promise.all([
    moveBlocks(tx, poolId, rows),
    deleteBlocks(tx, poolId, rows),
    deleteMapped(tx, poolId, timelineId, rows),
    insertFree(tx, poolId, rows),
    countOnDevices(tx, poolId, rows),
    ...byEpoch.map(([epoch, { length }]) => countReturned(tx, poolId, { timelineId, epoch }, length)),
  ]);
}

/** The rows up to the first whose slot was there before: of two of one slot, the older moves into the younger, or into its. */
function takeUnchained(rows: LookedAt[]): LookedAt[] {
  const slots = new Set<number>();
  const chained = rows.findIndex(({ at_slot: slot }) => slots.size === slots.add(slot).size);
  return chained < 0 ? rows : rows.slice(0, chained);
}

/** Ends a task, or has it begin again when something had to be left. */
async function endRound(
  tx: Transaction,
  poolId: string,
  task: ReclaimTask,
  { any, live }: Readers,
  at: Date,
): Promise<Reclaimed> {
  if (task.waiting) {
    await moveTask(tx, poolId, { ...task, done_epoch: -1, done_slot: -1, waiting: false }, at);
    return { idle: true, segmentsReturned: 0 };
  }
  const { timeline_id: timelineId, epoch, segments_returned: segmentsReturned } = task;
  await deleteTask(tx, poolId, task);
  if (!any && !live) {
    const parent = await deleteTimeline(tx, poolId, timelineId);
    if (parent !== undefined) await appendReclaims(tx, poolId, [parent], at);
  } else if (await isMergeable(tx, poolId, timelineId)) await appendMerge(tx, poolId, timelineId, at);
  await markChanged(tx, poolId, { timelineId, epoch }, segmentsReturned > 0);
  await appendEvent(tx, poolId, { type: "reclaim.progress", at, body: { timelineId, segmentsReturned } });
  return { idle: false, segmentsReturned: 0 };
}

/** A step of merging a timeline into the one that alone reads it; behind the last, what that has overwritten is to be looked at. */
async function mergeTimeline(
  tx: Transaction,
  poolId: string,
  task: ReclaimTask,
  at: Date,
): Promise<Reclaimed> {
  const step = await stepMerge(tx, poolId, task.timeline_id);
  if (step === "moved") await moveTask(tx, poolId, task, at);
  else await deleteTask(tx, poolId, task);
  if (typeof step === "object") await appendReclaims(tx, poolId, [step], at);
  return { idle: false, segmentsReturned: 0 };
}
