/**
 * Who reads a timeline: the snapshots on it, the timelines that start from it, and its live volume.
 *
 * Each reads up to an epoch. A snapshot of selected blocks reads only the slots that they lie in; all others read every slot.
 */

import type { Client } from "../database/client.ts";

/** Above every epoch. */
export const EPOCH_MAX = "9223372036854775807";

/** A timeline, as far as its readers are concerned. */
export interface ReadTimeline {
  readonly timelineId: number;
  readonly segmentBlocks: number;
  /** The open epoch, when a live volume reads it. */
  readonly liveEpoch: number | null;
}

/** A number, or a column that has it. */
type Value = number | ReturnType<Client>;

/** Readers that are thought away. */
export interface Absent {
  readonly snapshotId: string;
  readonly timelineIds: number[];
}

/** The snapshots that read a timeline, as `v`; goes on with `and`. */
export function snapshotsReading(client: Client, poolId: string, timelineId: Value) {
  return client`snapshot_volumes v join snapshots s on s.pool_id = v.pool_id and s.snapshot_id = v.snapshot_id
    where v.pool_id = ${poolId} and v.timeline_id = ${timelineId} and s.status in ('pending', 'sealed')`;
}

/** The timelines that start from a timeline; goes on with `and`. */
export function timelinesReading(client: Client, poolId: string, timelineId: Value) {
  return client`timelines where pool_id = ${poolId} and parent_timeline_id = ${timelineId}`;
}

/**
 * The timeline that alone reads a timeline, with the epoch that it reads up to, if all that it has is younger; none where a volume or
 * a snapshot reads it too, or where it is of staged contents, which nobody reads yet. Goes on with `and`.
 */
export function onlyChild(client: Client, poolId: string, timelineId: Value, absent?: Absent) {
  const [notSnapshot, notTimelines] = exclude(client, absent);
  return client`timelines c
    where c.pool_id = ${poolId} and c.parent_timeline_id = ${timelineId} and c.first_epoch > c.parent_epoch
      and array[c.timeline_id] = array(
        select timeline_id from ${timelinesReading(client, poolId, timelineId)} ${notTimelines} limit 2
      )
      and not exists (select from ${snapshotsReading(client, poolId, timelineId)} ${notSnapshot})
      and not exists (
        select from volumes where pool_id = ${poolId} and timeline_id = ${timelineId} and deleted_at is null
      )
      and not exists (select from stagings g where g.pool_id = ${poolId} and g.timeline_id = c.timeline_id)`;
}

/** What is to be added to the snapshots and to the timelines that read one, for those that are thought away. */
function exclude(client: Client, absent?: Absent) {
  return absent === undefined ? [client``, client``] : [
    client`and v.snapshot_id <> ${absent.snapshotId}`,
    client`and timeline_id <> all(${absent.timelineIds}::bigint[])`,
  ];
}

/** The nearest epoch below `epoch` of which somebody reads every slot; -1 when there is none. */
export function wholeReaderBelow(client: Client, poolId: string, timelineId: Value, epoch: Value) {
  return client`coalesce(greatest(
    (select v.epoch from ${snapshotsReading(client, poolId, timelineId)}
      and v.epoch < ${epoch} and v.covered @> int8range(0, v.volume_blocks) order by v.epoch desc limit 1),
    (select max(parent_epoch) from ${
    timelinesReading(client, poolId, timelineId)
  } and parent_epoch < ${epoch})
  ), -1)`;
}

/** The nearest epoch from `epoch` on of which somebody reads every slot; above every epoch when there is none. */
export function wholeReaderFrom(client: Client, poolId: string, timelineId: Value, epoch: Value) {
  return client`coalesce(least(
    (select v.epoch from ${snapshotsReading(client, poolId, timelineId)}
      and v.epoch >= ${epoch} and v.covered @> int8range(0, v.volume_blocks) order by v.epoch limit 1),
    (select min(parent_epoch) from ${timelinesReading(client, poolId, timelineId)}
      and parent_epoch >= ${epoch})
  ), ${EPOCH_MAX}::bigint)`;
}

/** The epoch up to which the first reader reads that would find map row `m`, which has a slot and an epoch; null when nobody would. */
export function firstReader(
  client: Client,
  poolId: string,
  { timelineId, segmentBlocks, liveEpoch }: ReadTimeline,
  absent?: Absent,
) {
  const [notSnapshot, notTimelines] = exclude(client, absent);
  return client`coalesce(least(
    (select v.epoch from ${snapshotsReading(client, poolId, timelineId)} ${notSnapshot}
      and v.epoch >= m.epoch
      and v.covered && int8range(m.slot * ${segmentBlocks}::bigint, (m.slot + 1) * ${segmentBlocks}::bigint)
      order by v.epoch limit 1),
    (select min(parent_epoch) from ${timelinesReading(client, poolId, timelineId)} ${notTimelines}
      and parent_epoch >= m.epoch)
  ), ${liveEpoch}::bigint)`;
}
