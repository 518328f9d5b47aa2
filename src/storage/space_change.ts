/**
 * Which snapshots have to count anew what they hold alone, because a reader came or went, or a segment was taken.
 *
 * What a snapshot holds alone depends on the readers next to it on its timeline, on what was written up to the next one, and
 * where a timeline would go with it, on the same things of the timeline that this one started from. So a change at a moment of a
 * timeline concerns the readers on both sides of it up to the next one that reads every slot, and the snapshots that timelines which
 * start in between may go with: no other reads them, nor what starts from them. Where a timeline would be merged into another if
 * one snapshot went, that one also holds alone what the other has overwritten, so a change of either concerns it.
 *
 * Marks are counted, not set: who counts notes how many there were when it began, and one that comes meanwhile is not lost.
 */

import type { Client, Transaction } from "../database/client.ts";
import {
  EPOCH_MAX,
  snapshotsReading,
  timelinesReading,
  wholeReaderBelow,
  wholeReaderFrom,
} from "./slot_reader.ts";
import type { TimelinePoint } from "./timeline.ts";

/** Timelines that start from one and are looked at, under the pool's lock: if there are more, hardly all of them go with one snapshot. */
const CHILDREN_MAX = 128;

/** Of a timeline and the one that it started from, those that a single snapshot may keep from being merged. */
function keptFromMerge(client: Client, poolId: string, timelineId: number) {
  const id: ReturnType<Client> = client`t.timeline_id`;
  return client`
    select t.timeline_id from timelines t
    where t.pool_id = ${poolId} and t.timeline_id in (${timelineId}::bigint, (
        select parent_timeline_id from timelines where pool_id = ${poolId} and timeline_id = ${timelineId}
      ))
      and not exists (
        select from volumes where pool_id = ${poolId} and timeline_id = ${id} and deleted_at is null
      )
      and (select count(*) from (select from ${snapshotsReading(client, poolId, id)} limit 2) s) < 2
      and (select count(*) from (select from ${timelinesReading(client, poolId, id)} limit ${
    CHILDREN_MAX + 1
  }) c)
        between 1 and ${CHILDREN_MAX}::integer`;
}

/**
 * Marks the snapshots that a change at `point` concerns: it got or lost a reader, or segments were taken there. Call it once in a
 * transaction, for it locks what it marks in order.
 *
 * @param returned whether segments were returned there: snapshots of selected blocks count what they read, and may read less.
 */
export async function markChanged(
  { $client }: Transaction,
  poolId: string,
  { timelineId, epoch }: TimelinePoint,
  returned = false,
): Promise<void> {
  await $client`
    with recursive kept as (${keptFromMerge($client, poolId, timelineId)}),
    near (timeline_id, low, high, snapshot_id) as (
      (
        select ${timelineId}::bigint, ${wholeReaderBelow($client, poolId, timelineId, epoch)},
          ${wholeReaderFrom($client, poolId, timelineId, epoch)}, null::uuid
        union
        select timeline_id, -1, ${EPOCH_MAX}::bigint, null::uuid from kept
      )
      union
      select t.timeline_id, -1, ${EPOCH_MAX}::bigint, coalesce(n.snapshot_id, r.snapshot_ids[1])
      from near n join timelines t on t.pool_id = ${poolId} and t.parent_timeline_id = n.timeline_id
        and t.parent_epoch between n.low and n.high
      cross join lateral (
        select (select array_agg(s.snapshot_id) from (
            select v.snapshot_id from ${snapshotsReading($client, poolId, $client`t.timeline_id`)} limit 2
          ) s) as snapshot_ids, (select count(*) from (
            select from ${timelinesReading($client, poolId, $client`t.timeline_id`)} limit ${CHILDREN_MAX + 1}
          ) c) as children
      ) r
      where r.children <= ${CHILDREN_MAX}::integer and coalesce(cardinality(r.snapshot_ids), 0) < 2
        and (r.snapshot_ids[1] = n.snapshot_id) is not false
        and not exists (
          select from volumes l where l.pool_id = ${poolId} and l.timeline_id = t.timeline_id and l.deleted_at is null
        )
    ),
    behind (timeline_id, low) as (
      select ${timelineId}::bigint, ${epoch}::bigint where ${returned}::boolean
      union
      select t.timeline_id, -1 from behind b join timelines t
        on t.pool_id = ${poolId} and t.parent_timeline_id = b.timeline_id and t.parent_epoch >= b.low
    ),
    concerned as (
      select x.snapshot_id from snapshot_space x
      where x.pool_id = ${poolId} and x.snapshot_id in (
        select v.snapshot_id from near n join snapshot_volumes v
          on v.pool_id = ${poolId} and v.timeline_id = n.timeline_id and v.epoch between n.low and n.high
        union all
        select v.snapshot_id from behind b join snapshot_volumes v
          on v.pool_id = ${poolId} and v.timeline_id = b.timeline_id and v.epoch >= b.low
        where not v.covered @> int8range(0, v.volume_blocks)
      )
      order by x.snapshot_id for update
    )
    update snapshot_space x set changed = changed + 1 from concerned c
    where x.pool_id = ${poolId} and x.snapshot_id = c.snapshot_id`;
}
