/**
 * Timelines: the history of one volume's contents, a line of epochs. Markers advance the open epoch; a write belongs to
 * the epoch that was open when it was appended. A timeline starts empty, or from (timeline, epoch) of a snapshot; its epochs
 * count on from there.
 *
 * What a reader of (timeline, epoch) may see is its *lineage*: that timeline up to that epoch, then its parent up to
 * the epoch where it left, and so on.
 */

import type { Client, Transaction } from "../database/client.ts";
import { timelines } from "../database/schema.ts";
import { advancePool, type PoolHead } from "./pool.ts";
import { markChanged } from "./space_change.ts";

/** Above every epoch: reads the live contents of a timeline, whichever epoch is open. */
export const EPOCH_LIVE = Number.MAX_SAFE_INTEGER;

/** A moment of a timeline: the end of an epoch. */
export interface TimelinePoint {
  readonly timelineId: number;
  readonly epoch: number;
}

/** Starts a timeline of a volume, empty or from a moment of another, and answers its id. The pool is locked. */
export async function createTimeline(
  tx: Transaction,
  poolId: string,
  head: PoolHead,
  volumeId: string,
  parent?: TimelinePoint,
): Promise<number> {
  const timelineId = head.timelinesCreated + 1;
  const from = parent === undefined ? {} : {
    parentTimelineId: parent.timelineId,
    parentEpoch: parent.epoch,
    firstEpoch: parent.epoch + 1,
    openEpoch: parent.epoch + 1,
  };
  await tx.insert(timelines).values({ poolId, timelineId, volumeId, ...from });
  await advancePool(tx, poolId, { timelines: 1 });
  if (parent !== undefined) await markChanged(tx, poolId, parent);
  return timelineId;
}

/**
 * Closes the open epochs of timelines, so that what comes from now on can be told from what there is. The pool is locked, and its
 * map version is to be raised.
 */
export async function closeEpochs(tx: Transaction, poolId: string, timelineIds: number[]): Promise<void> {
  await tx.$client`
    update timelines set open_epoch = open_epoch + 1
    where pool_id = ${poolId} and timeline_id = any(${timelineIds}::bigint[])`;
}

/** Which epoch of a timeline is open. The pool is locked. */
export async function readOpenEpoch(tx: Transaction, poolId: string, timelineId: number): Promise<number> {
  const [row] = await tx.$client<[{ open_epoch: number }]>`
    select open_epoch from timelines where pool_id = ${poolId} and timeline_id = ${timelineId}`;
  return row.open_epoch;
}

/**
 * Two common table expressions: `lineage`, and `line` with the lineage of each row of `target (ordinal, timeline_id, epoch)`
 * as two arrays in order, for `unnest(line.timeline_ids, line.epochs) with ordinality`. PostgreSQL knows that an
 * ordinality is sorted, so a `limit` on it stops the walk at the first timeline that has the block.
 */
export function lineageOf(client: Client, poolId: string) {
  return client`
    lineage (ordinal, depth, timeline_id, epoch) as (
      select ordinal, 0, timeline_id, epoch from target
      union all
      select l.ordinal, l.depth + 1, t.parent_timeline_id, t.parent_epoch
      from lineage l cross join lateral (
        select parent_timeline_id, parent_epoch from timelines
        where pool_id = ${poolId} and timeline_id = l.timeline_id and parent_timeline_id is not null
        limit 1
      ) t
    ),
    line as (
      select ordinal, array_agg(timeline_id order by depth) as timeline_ids,
        array_agg(epoch order by depth) as epochs
      from lineage group by ordinal
    )`;
}

/** An epoch that a snapshot has opened, of a volume's timeline. */
export interface OpenedEpoch {
  readonly volumeId: string;
  readonly epoch: number;
}
