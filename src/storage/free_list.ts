/**
 * The free list: the segments that no map names.
 *
 * It is lazy. A device's segments from `segments_touched` on have never been taken and stand nowhere, so a device of
 * any size is added in O(1). Segments that were taken and given back stand in `free_segments`, and go out first.
 * All of it happens under the pool row's lock.
 */

import type { Transaction } from "../database/client.ts";
import type { SegmentRef } from "./segment.ts";

// Statements

async function takeReturned(tx: Transaction, poolId: string, count: number): Promise<SegmentRef[]> {
  const rows = await tx.$client<{ segment_id: number; device_id: string }[]>`
    with taken as (
      delete from free_segments where pool_id = ${poolId} and segment_id in (
        select segment_id from free_segments where pool_id = ${poolId} order by segment_id limit ${count}
      )
      returning segment_id, device_id
    ), counted as (
      update devices d set segments_returned = segments_returned - t.count
      from (select device_id, count(*) from taken group by device_id) t
      where d.pool_id = ${poolId} and d.device_id = t.device_id
    )
    select segment_id, device_id from taken order by segment_id`;
  return rows.map((row) => ({ segmentId: row.segment_id, deviceId: row.device_id }));
}

/** Takes from the untouched tails, the oldest device first. */
async function takeUntouched(tx: Transaction, poolId: string, count: number): Promise<SegmentRef[]> {
  const rows = await tx.$client<{ device_id: string; first_segment_id: number; taken: number }[]>`
    with room as (
      select device_id, first_segment_id + segments_touched as first_segment_id,
        segment_count - segments_touched as room,
        sum(segment_count - segments_touched) over (order by first_segment_id) as room_until
      from devices where pool_id = ${poolId} and segment_count > segments_touched
    ), taken as (
      select device_id, first_segment_id, least(room, ${count}::bigint - (room_until - room))::bigint as taken
      from room where room_until - room < ${count}::bigint
    ), counted as (
      update devices d set segments_touched = segments_touched + t.taken
      from taken t where d.pool_id = ${poolId} and d.device_id = t.device_id
    )
    select device_id, first_segment_id, taken from taken order by first_segment_id`;
  return rows.flatMap((row) =>
    Array.from({ length: row.taken }, (_, index) => ({
      segmentId: row.first_segment_id + index,
      deviceId: row.device_id,
    }))
  );
}

// Verbs

/** Takes up to `count` segments off the free list: fewer only when there are no more. The pool is locked. */
export async function takeSegments(tx: Transaction, poolId: string, count: number): Promise<SegmentRef[]> {
  const returned = await takeReturned(tx, poolId, count);
  if (returned.length === count) return returned;
  return [...returned, ...await takeUntouched(tx, poolId, count - returned.length)];
}

/** Puts segments that no map names back on the free list. The pool is locked. */
export async function returnSegments(tx: Transaction, poolId: string, segments: SegmentRef[]): Promise<void> {
  await tx.$client`
    with returned as (
      insert into free_segments (pool_id, segment_id, device_id)
      select ${poolId}, * from unnest(${segments.map((segment) => segment.segmentId)}::bigint[],
        ${segments.map((segment) => segment.deviceId)}::uuid[])
      returning device_id
    )
    update devices d set segments_returned = segments_returned + r.count
    from (select device_id, count(*) from returned group by device_id) r
    where d.pool_id = ${poolId} and d.device_id = r.device_id`;
}
