/**
 * Reclaim tasks: what is to be looked at for segments that no reader needs any more. Rows, so that any process takes them up
 * where another has left them.
 */

import type { Transaction } from "../database/client.ts";
import type { reclaims } from "../database/schema.ts";
import { createId } from "./identifier.ts";
import { lockTail } from "./pool.ts";
import { wholeReaderBelow, wholeReaderFrom } from "./slot_reader.ts";
import type { TimelinePoint } from "./timeline.ts";

// Statements

export interface ReclaimTask {
  reclaim_id: string;
  timeline_id: number;
  epoch: number;
  done_epoch: number;
  done_slot: number;
  waiting: boolean;
  segments_returned: number;
  /** Why it is there: a reader that went, an epoch that was closed, or a timeline that only one other read. */
  kind: (typeof reclaims.$inferSelect)["kind"];
}

/**
 * The task that was left alone longest; or, when several readers of a timeline went that stood next to each other, the youngest of
 * their tasks that is still to come by all that this one would look at.
 */
export async function lockTask(tx: Transaction, poolId: string): Promise<ReclaimTask | undefined> {
  const { $client } = tx;
  await lockTail(tx, poolId);
  const [task] = await $client<ReclaimTask[]>`
    select t.reclaim_id, t.timeline_id, t.epoch, t.done_epoch, t.done_slot, t.waiting, t.segments_returned, t.kind
    from (
      select reclaim_id, timeline_id, epoch, kind from reclaims
      where pool_id = ${poolId} order by looked_at, reclaim_id limit 1
    ) first
    join reclaims t on t.pool_id = ${poolId} and t.timeline_id = first.timeline_id and t.kind = first.kind
    where t.reclaim_id = first.reclaim_id or (
      t.kind = 'reader' and (t.done_epoch < 0 or t.done_epoch > first.epoch) and t.epoch > first.epoch and t.epoch <= ${
    wholeReaderFrom($client, poolId, $client`first.timeline_id`, $client`first.epoch`)
  }
    )
    order by t.epoch desc, t.reclaim_id limit 1`;
  return task;
}

/** Ends the tasks that are to look at nothing but what `task` is still to look at. Answers what they have returned. */
export async function deleteCoveredTasks(
  tx: Transaction,
  poolId: string,
  { reclaim_id: reclaimId, timeline_id: timelineId, epoch, done_epoch: doneEpoch }: ReclaimTask,
  above: number,
): Promise<number> {
  const rows = await tx.$client<{ segments_returned: number }[]>`
    delete from reclaims
    where pool_id = ${poolId} and timeline_id = ${timelineId} and kind = 'reader' and reclaim_id <> ${reclaimId}
      and epoch > ${above} and epoch < ${doneEpoch < 0 ? epoch + 1 : doneEpoch}::bigint
    returning segments_returned`;
  return rows.reduce((sum, row) => sum + row.segments_returned, 0);
}

export async function moveTask(tx: Transaction, poolId: string, task: ReclaimTask, at: Date): Promise<void> {
  await tx.$client`
    update reclaims set done_epoch = ${task.done_epoch}, done_slot = ${task.done_slot}, waiting = ${task.waiting},
      segments_returned = ${task.segments_returned}, looked_at = ${at.toISOString()}
    where pool_id = ${poolId} and reclaim_id = ${task.reclaim_id}`;
}

export async function deleteTask(
  tx: Transaction,
  poolId: string,
  { reclaim_id: reclaimId }: ReclaimTask,
): Promise<void> {
  await tx.$client`delete from reclaims where pool_id = ${poolId} and reclaim_id = ${reclaimId}`;
}

// Verbs

/** Has it looked at what `points` alone could tell apart, now that nobody reads them. The pool is locked. */
export async function appendReclaims(
  tx: Transaction,
  poolId: string,
  points: TimelinePoint[],
  at: Date,
): Promise<void> {
  await tx.$client`
    insert into reclaims (pool_id, reclaim_id, timeline_id, epoch, looked_at)
    select ${poolId}, r.reclaim_id, r.timeline_id, r.epoch, ${at.toISOString()}
    from unnest(${points.map(() => createId())}::uuid[], ${
    points.map(({ timelineId }) => timelineId)
  }::bigint[],
      ${points.map(({ epoch }) => epoch)}::bigint[]) as r (reclaim_id, timeline_id, epoch)`;
}

/** Has a timeline merged into the one that alone reads it, unless that is under way. The pool's tail is locked. */
export async function appendMerge(
  tx: Transaction,
  poolId: string,
  timelineId: number,
  at: Date,
): Promise<void> {
  await tx.$client`
    insert into reclaims (pool_id, reclaim_id, timeline_id, epoch, looked_at, kind)
    values (${poolId}, ${createId()}, ${timelineId}, 0, ${at.toISOString()}, 'merge')
    on conflict (pool_id, timeline_id) where kind = 'merge' do nothing`;
}

/**
 * Has it looked at what the open epochs of timelines have overwritten, which a snapshot of them is about to close, where older
 * epochs stand between them and the next reader of every slot. The pool is locked.
 */
export async function appendClosedReclaims(
  { $client }: Transaction,
  poolId: string,
  points: TimelinePoint[],
  at: Date,
): Promise<void> {
  await $client`
    insert into reclaims (pool_id, reclaim_id, timeline_id, epoch, looked_at, kind)
    select ${poolId}, r.reclaim_id, r.timeline_id, r.epoch, ${at.toISOString()}, 'closed'
    from unnest(${points.map(() => createId())}::uuid[], ${
    points.map(({ timelineId }) => timelineId)
  }::bigint[],
      ${points.map(({ epoch }) => epoch)}::bigint[]) as r (reclaim_id, timeline_id, epoch)
    where exists (
      select from epoch_space e
      where e.pool_id = ${poolId} and e.timeline_id = r.timeline_id and e.epoch = r.epoch
    ) and exists (
      select from epoch_space e
      where e.pool_id = ${poolId} and e.timeline_id = r.timeline_id and e.epoch < r.epoch and e.epoch > ${
    wholeReaderBelow($client, poolId, $client`r.timeline_id`, $client`r.epoch`)
  }
    )`;
}
