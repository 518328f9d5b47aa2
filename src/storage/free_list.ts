/**
 * The free list: the segments that no map names.
 *
 * It is lazy. A device's segments from `segments_touched` on have never been taken and stand nowhere, so a device of
 * any size is added in O(1). Segments that were taken and given back stand in `free_segments`, and go out first.
 *
 * Finding and taking are two steps. What was found stays free as long as the pool's head stays where it is, for only
 * appends take segments: so it can be found without the pool row's lock, and is taken by whoever then moves the head.
 */

import type { Connection } from "../database/client.ts";
import { bigintLiteral, bigintsLiteral, uuidLiteral } from "../database/literal.ts";
import type { SegmentRef } from "./segment.ts";

/** A segment on the free list, and whether it was given back or never taken. */
export interface FreeSegment extends SegmentRef {
  readonly returned: boolean;
}

// Statements

async function selectReturned(
  { $client }: Connection,
  poolId: string,
  count: number,
  deviceId?: string,
): Promise<FreeSegment[]> {
  const ofDevice = deviceId === undefined ? $client`` : $client`and device_id = ${deviceId}`;
  const rows = await $client<{ segment_id: number; device_id: string }[]>`
    select segment_id, device_id from free_segments
    where pool_id = ${poolId} ${ofDevice} order by segment_id limit ${count}`;
  return rows.map((row) => ({ segmentId: row.segment_id, deviceId: row.device_id, returned: true }));
}

/** From the untouched tails, the oldest device first. */
async function selectUntouched(
  { $client }: Connection,
  poolId: string,
  count: number,
  deviceId?: string,
): Promise<FreeSegment[]> {
  const ofDevice = deviceId === undefined ? $client`` : $client`and device_id = ${deviceId}`;
  const rows = await $client<{ device_id: string; first_segment_id: number; free: number }[]>`
    select device_id, first_segment_id, least(room, ${count}::bigint - (room_until - room))::bigint as free
    from (
      select device_id, first_segment_id + segments_touched as first_segment_id,
        segment_count - segments_touched as room,
        sum(segment_count - segments_touched) over (order by first_segment_id) as room_until
      from devices where pool_id = ${poolId} and segment_count > segments_touched ${ofDevice}
    ) rooms
    where room_until - room < ${count}::bigint
    order by first_segment_id`;
  return rows.flatMap((row) =>
    Array.from({ length: row.free }, (_, index) => ({
      segmentId: row.first_segment_id + index,
      deviceId: row.device_id,
      returned: false,
    }))
  );
}

// Verbs

/**
 * The next `count` segments of the free list, or of what of it is on one device, in the order in which they go out: fewer only
 * when there are no more.
 */
export async function findFreeSegments(
  connection: Connection,
  poolId: string,
  count: number,
  deviceId?: string,
): Promise<FreeSegment[]> {
  const [returned, untouched] = await Promise.all([
    selectReturned(connection, poolId, count, deviceId),
    selectUntouched(connection, poolId, count, deviceId),
  ]);
  return [...returned, ...untouched].slice(0, count);
}

/**
 * Free segments to choose from: of the whole pool, and for who is bound to a device of that. Each goes out once, and of a device
 * always the first that is left, which is what its untouched tail needs.
 */
export class FreeChoice {
  readonly #taken = new Set<number>();
  readonly #used = new Map<string | undefined, number>();

  constructor(
    private readonly whole: FreeSegment[],
    private readonly ofDevice: ReadonlyMap<string, FreeSegment[]>,
  ) {}

  /** How many there are still. */
  count(deviceId?: string): number {
    return this.#list(deviceId).length - (this.#used.get(deviceId) ?? 0) - this.#takenAhead(deviceId);
  }

  /** The next `count`, of which there are as many. */
  take(count: number, deviceId?: string): FreeSegment[] {
    const list = this.#list(deviceId);
    const chosen: FreeSegment[] = [];
    let used = this.#used.get(deviceId) ?? 0;
    for (; chosen.length < count; used++) {
      if (!this.#taken.has(list[used].segmentId)) chosen.push(list[used]);
    }
    this.#used.set(deviceId, used);
    if (this.ofDevice.size > 0) { for (const { segmentId } of chosen) this.#taken.add(segmentId); }
    return chosen;
  }

  /** What is left for the whole pool. */
  get rest(): FreeSegment[] {
    const left = this.whole.slice(this.#used.get(undefined) ?? 0);
    return this.#taken.size === 0 ? left : left.filter(({ segmentId }) => !this.#taken.has(segmentId));
  }

  #list(deviceId?: string): FreeSegment[] {
    return deviceId === undefined ? this.whole : this.ofDevice.get(deviceId) ?? [];
  }

  /** Those of a list that another has taken and this one has not come by. */
  #takenAhead(deviceId?: string): number {
    if (this.#taken.size === 0) return 0;
    const ahead = this.#list(deviceId).slice(this.#used.get(deviceId) ?? 0);
    return ahead.filter(({ segmentId }) => this.#taken.has(segmentId)).length;
  }
}

/** The statements that take the first of what was found off the free list. The pool is locked when they run. */
export function formatTaking(poolId: string, segments: FreeSegment[]): string[] {
  const pool = uuidLiteral(poolId);
  const returned = segments.filter((segment) => segment.returned).map(({ segmentId }) => segmentId);
  const counted = [...Map.groupBy(segments, ({ deviceId }) => deviceId)].map(([deviceId, taken]) => {
    const returnedCount = taken.filter((segment) => segment.returned).length;
    return `update devices set segments_touched = segments_touched + ${
      bigintLiteral(taken.length - returnedCount)
    },
      segments_returned = segments_returned - ${bigintLiteral(returnedCount)}
      where pool_id = ${pool} and device_id = ${uuidLiteral(deviceId)}`;
  });
  if (returned.length === 0) return counted;
  return [
    `delete from free_segments where pool_id = ${pool} and segment_id = any(${bigintsLiteral(returned)})`,
    ...counted,
  ];
}
