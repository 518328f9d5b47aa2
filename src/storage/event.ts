/**
 * Events: what happened, in the order in which it was committed.
 *
 * Invariants:
 * - *Told truthfully* (9): an event is written in the transaction it speaks of, so it exists if and only if that
 *   transaction does.
 * - Ids rise without a gap in commit order within a pool: the id is taken from the pool's row in `event_heads`, which
 *   stays locked until the commit. So who has seen id n and asks for what comes after gets all of it, once.
 *   It is the last lock a transaction takes; nobody holds it while waiting for another, but for the next pool's of those who
 *   tell events of two pools ({@linkcode appendEvents}).
 *
 * A stream follows one pool, for nothing crosses pools. NOTIFY wakes whoever follows it; it takes a global lock at
 * commit, which is why writes have no event.
 */

import { and, asc, eq, exists, gt, inArray, not, notInArray, or, sql } from "drizzle-orm";
import type { Connection, Transaction } from "../database/client.ts";
import { events, snapshotVolumes } from "../database/schema.ts";

/** The channel that PostgreSQL notifies at the commit of an event, with the pool's id as payload. */
export const EVENT_CHANNEL = "snapmark_events";

/** Every type of event. `snapshot.failed` has its place in the model; nothing in this version makes a snapshot fail. */
export const EVENT_TYPES = [
  "copy.cancelled",
  "copy.created",
  "copy.done",
  "copy.failed",
  "copy.progress",
  "device.added",
  "marker.committed",
  "marker.progress",
  "pool.changed",
  "pool.created",
  "reclaim.progress",
  "schedule.changed",
  "schedule.created",
  "schedule.deleted",
  "schedule.failed",
  "schedule.ran",
  "schedule.skipped",
  "scrub.corrupt",
  "scrub.finished",
  "scrub.progress",
  "scrub.started",
  "snapshot.cancelled",
  "snapshot.deleted",
  "snapshot.failed",
  "snapshot.held",
  "snapshot.labelled",
  "snapshot.sealed",
  "snapshot.verified",
  "volume.created",
  "volume.deleted",
  "volume.imported",
  "volume.labelled",
  "volume.limited",
  "volume.resized",
  "volume.reverted",
] as const;

export type EventType = typeof EVENT_TYPES[number];

/** Something to tell. */
export interface NewEvent {
  readonly type: EventType;
  readonly at: Date;
  readonly snapshotId?: string;
  readonly volumeId?: string;
  readonly deviceId?: string;
  readonly body: Record<string, unknown>;
}

/** An event as it was stored. `eventId` rises within its pool. */
export interface StorageEvent extends NewEvent {
  readonly poolId: string;
  readonly eventId: number;
}

/** Which events of a pool are wanted; what is absent does not restrict. */
export interface EventFilter {
  readonly snapshotId?: string;
  /** Events of the volume, and of snapshots that cover it. */
  readonly volumeId?: string;
  /** Nothing of snapshots that cover others than these volumes. */
  readonly within?: string[];
  readonly types?: EventType[];
}

/** Writes `event`. Call it last in a transaction: it takes the pool's event lock. */
export async function appendEvent(tx: Transaction, poolId: string, event: NewEvent): Promise<void> {
  const appended = tx.$client`
    with head as (
      update event_heads set event_id = event_id + 1 where pool_id = ${poolId} returning event_id
    )
    insert into events (pool_id, event_id, type, at, snapshot_id, device_id, volume_id, body)
    select ${poolId}, event_id, ${event.type}, ${event.at.toISOString()}, ${event.snapshotId ?? null},
      ${event.deviceId ?? null}, ${event.volumeId ?? null}, ${JSON.stringify(event.body)}::text::jsonb
    from head`;
  await Promise.all([appended, tx.$client`select pg_notify(${EVENT_CHANNEL}, ${poolId})`]);
}

/** Writes events of several pools, in the order of the pools' ids, so that no two who do wait for each other. Call it last. */
export async function appendEvents(tx: Transaction, told: (NewEvent & { poolId: string })[]): Promise<void> {
  const inOrder = told.toSorted((a, b) => a.poolId < b.poolId ? -1 : 1);
  for (const { poolId, ...event } of inOrder) await appendEvent(tx, poolId, event);
}

/** Up to `eventsMax` events of a pool with an id above `afterEventId`, ascending. */
export async function listEvents(
  connection: Connection,
  poolId: string,
  filter: EventFilter,
  afterEventId: number,
  eventsMax: number,
): Promise<StorageEvent[]> {
  const rows = await connection.select().from(events)
    .where(and(
      eq(events.poolId, poolId),
      gt(events.eventId, afterEventId),
      filter.snapshotId === undefined ? undefined : eq(events.snapshotId, filter.snapshotId),
      filter.volumeId === undefined ? undefined : concernsVolume(connection, poolId, filter.volumeId),
      filter.within === undefined ? undefined : not(coversOther(connection, poolId, filter.within)),
      filter.types === undefined ? undefined : inArray(events.type, filter.types),
    ))
    .orderBy(asc(events.eventId))
    .limit(eventsMax);
  return rows.map(toEvent);
}

/** The id of the newest event of a pool; 0 before the first. */
export async function readLastEventId(connection: Connection, poolId: string): Promise<number> {
  const [row] = await connection.$client<{ event_id: number }[]>`
    select event_id from event_heads where pool_id = ${poolId}`;
  return row?.event_id ?? 0;
}

function concernsVolume(connection: Connection, poolId: string, volumeId: string) {
  const covering = connection.select({ one: sql`1` }).from(snapshotVolumes).where(and(
    eq(snapshotVolumes.poolId, poolId),
    eq(snapshotVolumes.snapshotId, events.snapshotId),
    eq(snapshotVolumes.volumeId, volumeId),
  ));
  return or(eq(events.volumeId, volumeId), sql`exists ${covering}`);
}

function coversOther(connection: Connection, poolId: string, volumeIds: string[]) {
  return exists(
    connection.select({ one: sql`1` }).from(snapshotVolumes).where(and(
      eq(snapshotVolumes.poolId, poolId),
      eq(snapshotVolumes.snapshotId, events.snapshotId),
      notInArray(snapshotVolumes.volumeId, volumeIds),
    )),
  );
}

function toEvent(row: typeof events.$inferSelect): StorageEvent {
  return {
    poolId: row.poolId,
    eventId: row.eventId,
    type: row.type as EventType,
    at: row.at,
    ...(row.snapshotId === null ? {} : { snapshotId: row.snapshotId }),
    ...(row.volumeId === null ? {} : { volumeId: row.volumeId }),
    ...(row.deviceId === null ? {} : { deviceId: row.deviceId }),
    body: row.body as Record<string, unknown>,
  };
}
