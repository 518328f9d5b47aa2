/**
 * What many snapshots of a volume leave when they are sealed, and the writes behind each when they are flushed: put straight into
 * the tables, for taking them one after the other would be most of the time of a bench.
 *
 * It is what markers, appends and flushes would leave, counters included; what the snapshots hold alone is taken for counted.
 * Nobody else may be at the pool, its cache is empty, and it has one device.
 */

import type { Client } from "../../src/database/client.ts";
import type { BenchDatabase } from "./bed.ts";
import { BLOCK_BYTES, takeBlock } from "./block_contents.ts";

/** Gigabytes may have to be written. */
const STATEMENT_LIMIT = "120s";

export interface MadeSnapshots {
  readonly count: number;
  /** Blocks that are written, as many behind each snapshot, the first one's first. */
  readonly lbas?: Uint32Array;
}

/** A volume, and where its pool stands. */
interface Place {
  readonly pool_id: string;
  readonly volume_id: string;
  readonly timeline_id: number;
  readonly block_count: number;
  readonly open_epoch: number;
  readonly sequence_appended: number;
  readonly bytes_appended: number;
  readonly event_id: number;
}

// Statements

async function lockPlace(tx: Client, volumeId: string): Promise<Place> {
  const [place] = await tx<[Place]>`
    select v.pool_id, v.volume_id, v.timeline_id, v.block_count, t.open_epoch, h.sequence_appended, h.bytes_appended,
      e.event_id
    from volumes v join timelines t using (pool_id, timeline_id) join pool_heads h using (pool_id)
    join event_heads e using (pool_id)
    where v.volume_id = ${volumeId} for update of h`;
  return place;
}

/** The first snapshot closes the open epoch, each other one the next. */
async function insertMarkers(tx: Client, place: Place, count: number, writes: number): Promise<string[]> {
  const { pool_id: poolId, volume_id: volumeId, block_count: blockCount } = place;
  await tx`
    create temporary table made on commit drop as
    select i, gen_random_uuid() as snapshot_id, gen_random_uuid() as audit_id, now() as at,
      ${place.open_epoch}::bigint + i - 1 as epoch,
      ${place.sequence_appended}::bigint + (i - 1) * ${writes + 1}::bigint + 1 as sequence,
      ${place.bytes_appended}::bigint + (i - 1) * ${writes * BLOCK_BYTES}::bigint as bytes_before
    from generate_series(1, ${count}::bigint) i`;
  await tx`
    insert into snapshots (pool_id, snapshot_id, status, marker_sequence, bytes_before, audit_id, created_at, sealed_at)
    select ${poolId}, snapshot_id, 'sealed', sequence, bytes_before, audit_id, at, at from made`;
  await tx`
    insert into snapshot_volumes (pool_id, snapshot_id, volume_id, timeline_id, epoch, volume_blocks, covered)
    select ${poolId}, snapshot_id, ${volumeId}, ${place.timeline_id}, epoch, ${blockCount}::bigint,
      int8multirange(int8range(0, ${blockCount}::bigint))
    from made`;
  await tx`insert into snapshot_space (pool_id, snapshot_id, counted_at) select ${poolId}, snapshot_id, at from made`;
  await tx`
    insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, cdb, scsi_status,
      phases, marker_sequence, chain_number, chain_hash)
    select ${poolId}, audit_id, at, audit_id, 'bench', 'bench', 'snapshot.create', snapshot_id,
      decode('c00100000000', 'hex'), 'GOOD', '[]', sequence, h.chain_number + i, h.chain_hash
    from made cross join audit_heads h where h.pool_id = ${poolId}`;
  await tx`update audit_heads set chain_number = chain_number + ${count}::bigint where pool_id = ${poolId}`;
  await tx`
    insert into events (pool_id, event_id, type, at, snapshot_id, body)
    select ${poolId}, ${place.event_id}::bigint + 2 * i - k,
      case k when 1 then 'marker.committed' else 'snapshot.sealed' end, at, snapshot_id,
      jsonb_build_object('sequence', sequence)
    from made cross join generate_series(0, 1) k`;
  const rows = await tx<{ snapshot_id: string }[]>`select snapshot_id from made order by i`;
  return rows.map((row) => row.snapshot_id);
}

/** Of the writes to a block in one epoch the last one stays. All have the same contents. */
async function insertWrites(tx: Client, place: Place, lbas: Uint32Array, writes: number): Promise<void> {
  const { pool_id: poolId, timeline_id: timelineId } = place;
  await tx`
    create temporary table written on commit drop as
    select w.epoch, w.slot, w.block_index, w.sequence, d.device_id,
      d.first_segment_id + d.segments_touched + dense_rank() over (order by w.epoch, w.slot) - 1 as segment_id
    from (
      select distinct on (epoch, lba) epoch, lba / segment_blocks as slot, lba % segment_blocks as block_index,
        ${place.sequence_appended}::bigint + i + cut as sequence
      from (
        select i, lba, cut, ${place.open_epoch}::bigint + cut as epoch, segment_blocks
        from unnest(${[...lbas]}::bigint[]) with ordinality as l (lba, i)
        cross join lateral (select (i - 1) / ${writes}::bigint + 1 as cut) c
        cross join (select segment_blocks from pools where pool_id = ${poolId}) p
      ) l
      order by epoch, lba, i desc
    ) w
    cross join (select device_id, first_segment_id, segments_touched from devices where pool_id = ${poolId}) d`;
  await tx`
    insert into blocks (pool_id, device_id, segment_id, block_index, sequence, data)
    select ${poolId}, device_id, segment_id, block_index, sequence, ${takeBlock()}::bytea from written`;
  await tx`
    insert into segment_map (pool_id, timeline_id, slot, epoch, segment_id, device_id)
    select distinct ${poolId}::uuid, ${timelineId}::bigint, slot, epoch, segment_id, device_id from written`;
  await tx`
    insert into epoch_space (pool_id, timeline_id, epoch, segments, counted)
    select ${poolId}, ${timelineId}, epoch, count(distinct slot), true from written group by epoch`;
  await tx`
    update devices set segments_touched = segments_touched + (select count(distinct segment_id) from written)
    where pool_id = ${poolId}`;
  await tx`
    update timelines set segments_mapped = segments_mapped + (select count(distinct segment_id) from written)
    where pool_id = ${poolId} and timeline_id = ${timelineId}`;
}

async function advance(tx: Client, place: Place, count: number, lbas: Uint32Array): Promise<void> {
  const { pool_id: poolId } = place;
  const entries = count + lbas.length;
  const bytes = lbas.length * BLOCK_BYTES;
  await tx`
    update timelines set open_epoch = open_epoch + ${count}::bigint
    where pool_id = ${poolId} and timeline_id = ${place.timeline_id}`;
  await tx`
    update pool_heads set sequence_appended = sequence_appended + ${entries}::bigint,
      bytes_appended = bytes_appended + ${bytes}::bigint, map_version = map_version + ${count}::bigint
    where pool_id = ${poolId}`;
  await tx`
    update pool_tails set sequence_flushed = sequence_flushed + ${entries}::bigint,
      entries_flushed = entries_flushed + ${entries}::bigint, bytes_flushed = bytes_flushed + ${bytes}::bigint
    where pool_id = ${poolId}`;
  await tx`update event_heads set event_id = event_id + 2 * ${count}::bigint where pool_id = ${poolId}`;
}

// Verbs

/** Makes sealed snapshots of a whole volume, with flushed writes behind each. Answers their ids, oldest first. */
export async function insertSnapshots(
  { database }: BenchDatabase,
  volumeId: string,
  { count, lbas = new Uint32Array() }: MadeSnapshots,
): Promise<string[]> {
  const writes = lbas.length / count;
  if (!Number.isInteger(writes)) {
    throw new Error(`Cannot make ${count} snapshots: ${lbas.length} writes are not as many behind each`);
  }
  return await database.$client.begin(async (tx) => {
    await tx`select set_config('statement_timeout', ${STATEMENT_LIMIT}, true)`;
    const place = await lockPlace(tx, volumeId);
    const snapshotIds = await insertMarkers(tx, place, count, writes);
    if (writes > 0) await insertWrites(tx, place, lbas, writes);
    await advance(tx, place, count, lbas);
    return snapshotIds;
  });
}
