/**
 * Merging timelines: one that only one other reads has nothing of its own to keep, so its map rows become that one's, and it goes.
 *
 * Who reverts a volume again and again, or clones clones, leaves a line of timelines that nobody asks for. What the volume has
 * overwritten since then lies in another timeline than what it was overwritten with, so reclaim would never compare the two. Merged,
 * they are epochs of one slot like any others.
 *
 *     grandparent ◄──(epoch 3)── parent ◄──(epoch 7)── child          grandparent ◄──(epoch 3)── child
 *                                4 … 7                 8 … live   ►                              4 … live
 *
 * Why readers of the child see the same at every moment:
 * - The epochs of a timeline count on from the moment that it started from (`first_epoch`), so the parent's rows are older than
 *   all that the child has, and younger than all that the grandparent has, wherever they stand.
 * - The youngest rows move first, so what is left in the parent is older than what has moved.
 * - All who read the child read it from its first epoch on, so they see all that has moved.
 *
 * Nobody can come to read the parent meanwhile, for that takes a snapshot of it. Rows of open epochs are never moved: the parent is
 * no volume's. Entries in the cache name their segments, not their timelines, so they may be left.
 */

import type { Transaction } from "../database/client.ts";
import { onlyChild } from "./slot_reader.ts";
import { moveTaken } from "./space.ts";
import type { TimelinePoint } from "./timeline.ts";

/** Rows of the map that one step moves. */
const ROWS_MAX = 256;

/** The only reader of a timeline, and the epoch that it reads up to. */
interface OnlyChild extends TimelinePoint {
  readonly parentId: number;
}

// Statements

/** The timeline that alone reads timeline `parentId`, if it reads all of it and is younger, and nothing else is to be looked at there. */
async function selectOnlyChild(
  { $client }: Transaction,
  poolId: string,
  parentId: number,
): Promise<OnlyChild | undefined> {
  const [row] = await $client<{ timeline_id: number; parent_epoch: number }[]>`
    select c.timeline_id, c.parent_epoch from ${onlyChild($client, poolId, parentId)}
      and not exists (
        select from segment_map m
        where m.pool_id = ${poolId} and m.timeline_id = ${parentId} and m.epoch > c.parent_epoch
      )
      and not exists (
        select from reclaims where pool_id = ${poolId} and timeline_id = ${parentId} and kind <> 'merge'
      )`;
  return row === undefined ? undefined : { parentId, timelineId: row.timeline_id, epoch: row.parent_epoch };
}

/** Moves the youngest rows that the child reads. Answers how many of each epoch. Only who holds the tail changes rows that there are. */
async function moveRows(
  { $client }: Transaction,
  poolId: string,
  { parentId, timelineId, epoch }: OnlyChild,
): Promise<{ epoch: number; segments: number }[]> {
  return await $client<{ epoch: number; segments: number }[]>`
    with moved as (
      update segment_map set timeline_id = ${timelineId}
      where ctid = any(array(
        select ctid from segment_map
        where pool_id = ${poolId} and timeline_id = ${parentId} and epoch <= ${epoch}
        order by epoch desc, slot desc limit ${ROWS_MAX}
      ))
      returning epoch
    )
    select epoch, count(*) as segments from moved group by epoch order by epoch`;
}

/** Lets the child start from what its parent, which has no rows, started from, and removes the parent. */
async function replaceParent(
  { $client }: Transaction,
  poolId: string,
  { parentId, timelineId }: OnlyChild,
): Promise<void> {
  await $client`
    update timelines c set parent_timeline_id = p.parent_timeline_id, parent_epoch = p.parent_epoch,
      first_epoch = p.first_epoch
    from timelines p
    where c.pool_id = ${poolId} and c.timeline_id = ${timelineId} and p.pool_id = ${poolId}
      and p.timeline_id = ${parentId}`;
  await $client`delete from timelines where pool_id = ${poolId} and timeline_id = ${parentId}`;
}

// Verbs

/** Whether a timeline is to be merged into another. Its readers come and go, so a step looks again. */
export async function isMergeable(tx: Transaction, poolId: string, timelineId: number): Promise<boolean> {
  return await selectOnlyChild(tx, poolId, timelineId) !== undefined;
}

/** What a step came to: the timeline is not to be merged now, some of it has moved, or it is merged and ends at a point of another. */
export type MergeStep = "off" | "moved" | TimelinePoint;

/** Moves a bounded part of a timeline into the one that alone reads it. The pool's tail is locked. */
export async function stepMerge(tx: Transaction, poolId: string, timelineId: number): Promise<MergeStep> {
  const child = await selectOnlyChild(tx, poolId, timelineId);
  if (child === undefined) return "off";
  const moved = await moveRows(tx, poolId, child);
  if (moved.length > 0) {
    await moveTaken(tx, poolId, child.parentId, child.timelineId, moved);
    return "moved";
  }
  await replaceParent(tx, poolId, child);
  return { timelineId: child.timelineId, epoch: child.epoch };
}
