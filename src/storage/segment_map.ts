/**
 * The segment map: (timeline, slot, epoch) → segment. It says where a slot's blocks of one epoch went.
 *
 * A segment holds only the blocks written to it in its epoch; older ones stay where they are and are found by walking
 * back. A row is never changed: a slot's first write in an epoch adds one. A unique index keeps a segment from being
 * named twice.
 */

import type { Client, Connection, Database } from "../database/client.ts";
import { bigintsLiteral, uuidLiteral, uuidsLiteral } from "../database/literal.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import type { SegmentRef } from "./segment.ts";
import { EPOCH_LIVE, lineageOf } from "./timeline.ts";

/** Names one row of the map. */
export interface SlotKey {
  readonly timelineId: number;
  readonly slot: number;
  readonly epoch: number;
}

/** A row of the map. */
export interface MappedSlot extends SlotKey, SegmentRef {}

/**
 * The segments that `keys` are mapped to, by the index of the key; those without one are missing.
 *
 * Each key is looked up by itself, which the lateral `limit` makes sure of: while the table grows from nothing the planner would
 * rather walk the whole map once, and that plan outlives its reason (20 ms a batch instead of 0.1).
 */
export async function findSegments(
  connection: Connection,
  poolId: string,
  keys: SlotKey[],
): Promise<Map<number, SegmentRef>> {
  const rows = await connection.$client<{ ordinal: number; segment_id: number; device_id: string }[]>`
    select k.ordinal, m.segment_id, m.device_id
    from unnest(${keys.map((key) => key.timelineId)}::bigint[], ${keys.map((key) => key.slot)}::bigint[],
      ${keys.map((key) => key.epoch)}::bigint[]) with ordinality as k (timeline_id, slot, epoch, ordinal)
    cross join lateral (
      select segment_id, device_id from segment_map
      where pool_id = ${poolId} and timeline_id = k.timeline_id and slot = k.slot and epoch = k.epoch
      limit 1
    ) m`;
  return new Map(
    rows.map((row) => [row.ordinal - 1, { segmentId: row.segment_id, deviceId: row.device_id }]),
  );
}

/** The statement that adds rows. The pool is locked when it runs. */
export function formatMapping(poolId: string, mapped: MappedSlot[]): string {
  return `
    insert into segment_map (pool_id, timeline_id, slot, epoch, segment_id, device_id)
    select ${uuidLiteral(poolId)}, * from unnest(
      ${bigintsLiteral(mapped.map((row) => row.timelineId))}, ${
    bigintsLiteral(mapped.map((row) => row.slot))
  },
      ${bigintsLiteral(mapped.map((row) => row.epoch))}, ${
    bigintsLiteral(mapped.map((row) => row.segmentId))
  },
      ${uuidsLiteral(mapped.map((row) => row.deviceId))})`;
}

/** A run of slots, half-open. */
export interface SlotRange {
  readonly firstSlot: number;
  readonly endSlot: number;
}

/** Of the slots in `ranges`, those that any epoch of the live timeline or its ancestors maps. */
export async function findMappedSlots(
  client: Client,
  poolId: string,
  timelineId: number,
  ranges: SlotRange[],
): Promise<number[]> {
  const rows = await client<{ slot: number }[]>`
    with recursive target as (select 1 as ordinal, ${timelineId}::bigint as timeline_id, ${EPOCH_LIVE}::bigint as epoch),
    ${lineageOf(client, poolId)}
    select s.slot from line
    cross join unnest(${ranges.map((range) => range.firstSlot)}::bigint[],
      ${ranges.map((range) => range.endSlot - 1)}::bigint[]) as r (first_slot, last_slot)
    cross join lateral generate_series(r.first_slot, r.last_slot) as s (slot)
    where exists (
      select from unnest(line.timeline_ids, line.epochs) as l (timeline_id, epoch)
      cross join lateral (
        select from segment_map m
        where m.pool_id = ${poolId} and m.timeline_id = l.timeline_id and m.slot = s.slot and m.epoch <= l.epoch
        limit 1
      ) mapped
    )`;
  return rows.map((row) => row.slot);
}

/** The map of one timeline, by slot and epoch; a page's key is `slot.epoch`. */
export async function listMappedSlots(
  database: Database,
  poolId: string,
  timelineId: number,
  page: PageRequest,
): Promise<Page<MappedSlot>> {
  const [afterSlot, afterEpoch] = page.after?.split(".").map(Number) ?? [-1, -1];
  const rows = await database.$client<
    { slot: number; epoch: number; segment_id: number; device_id: string }[]
  >`
    select slot, epoch, segment_id, device_id from segment_map
    where pool_id = ${poolId} and timeline_id = ${timelineId}
      and (slot, epoch) > (${afterSlot}::bigint, ${afterEpoch}::bigint)
    order by slot, epoch
    limit ${page.itemsMax + 1}`;
  return toPage(rows, page, (row) => `${row.slot}.${row.epoch}`, (row) => ({
    timelineId,
    slot: row.slot,
    epoch: row.epoch,
    segmentId: row.segment_id,
    deviceId: row.device_id,
  }));
}
