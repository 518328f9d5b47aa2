/**
 * Databases of earlier versions, with data in them as the program of that time wrote them: by SQL, for that program is gone.
 *
 * Pool `p` has blocks of 512 bytes in segments of four, one device, volume `v` of 16 blocks, and a clone of it, `w`. What was
 * appended, by sequence; up to 3 it has left the queue:
 *
 *     1  v  blocks 0 to 3     stamps 1 to 4     epoch 0
 *     2  snapshot `s` of all of v, sealed; `w` starts from it
 *     3  v  block 1           stamp 10          epoch 1
 *     4  v  blocks 8 and 9    stamps 20 and 21
 *     5  v  block 2           trimmed
 *     6  snapshot `t` of the first 10 blocks of v, pending, to be answered when sealed
 *     7  v  block 0           stamp 30          epoch 2
 *     8  w  block 15          stamp 40
 */

import type { Database } from "../../src/database/client.ts";
import { fill } from "./history.ts";

const MIGRATIONS = new URL("../../migrations/", import.meta.url);

const id = (number: number) => `00000000-0000-7000-8000-${number.toString().padStart(12, "0")}`;

export const OLD = {
  poolId: id(1),
  deviceId: id(2),
  volumeId: id(3),
  cloneId: id(4),
  sealedId: id(5),
  pendingId: id(6),
  clientId: id(7),
  pendingAuditId: id(14),
} as const;

const { poolId, deviceId, volumeId, cloneId, sealedId, pendingId, clientId } = OLD;
const AT = "2026-01-01T00:00:00.123456Z";
/** What the commands of 2 and 6 were: SNAPSHOT(6) with IMMED set, and clear. */
const [IMMED, NOT_IMMED] = ["\\xc00100000000", "\\xc10000000000000a00"];

/** Versions from which on a table has another shape, or a row more is written. */
const VOLUME_BLOCKS_FROM = 5;
const COVERED_FROM = 8;
const SPACE_FROM = 10;
const CHAIN_FROM = 19;
const POLICY_FROM = 24;

/** The names of the migrations, in order. */
export function listMigrations(): string[] {
  return [...Deno.readDirSync(MIGRATIONS)].map(({ name }) => name).sort();
}

/** Brings an empty database to an earlier schema. */
export async function migrateTo({ $client }: Database, version: number): Promise<void> {
  await $client`
    create table schema_migrations (
      version integer primary key, name text not null, applied_at timestamptz not null default now()
    )`;
  for (const [index, name] of listMigrations().slice(0, version).entries()) {
    await $client.unsafe(await Deno.readTextFile(new URL(name, MIGRATIONS)));
    await $client`insert into schema_migrations (version, name) values (${index + 1}, ${name})`;
  }
}

/** Writes what is told above as a program of that version did. */
export async function insertOldData(database: Database, version: number): Promise<void> {
  const { $client } = database;
  await $client`
    insert into pools (pool_id, name, block_size_bytes, segment_blocks, cache_bytes_max, created_at)
    values (${poolId}, 'p', 512, 4, 1000000, ${AT})`;
  await $client`
    insert into pool_heads (pool_id, sequence_appended, bytes_appended, map_version, timelines_created, segments_created)
    values (${poolId}, 8, ${9 * 512}, 5, 2, 100)`;
  await $client`
    insert into pool_tails (pool_id, sequence_flushed, entries_flushed, bytes_flushed)
    values (${poolId}, 3, 3, ${5 * 512})`;
  if (version >= POLICY_FROM) {
    await $client`insert into flush_policies (pool_id, policy) values (${poolId}, '{"kind": "at-once"}')`;
  }
  await insertDevice(database);
  await insertVolumes(database, version);
  await insertMap(database, version);
  await insertEntries(database);
  await insertSnapshots(database, version);
  await insertAudit(database, version);
  await $client`insert into event_heads (pool_id, event_id) values (${poolId}, 2)`;
  await $client`
    insert into events (pool_id, event_id, type, at, snapshot_id, device_id, volume_id, body) values
      (${poolId}, 1, 'pool.created', ${AT}, null, null, null, '{"name": "p"}'),
      (${poolId}, 2, 'snapshot.sealed', ${AT}, ${sealedId}, null, null, '{"sequence": 2}')`;
}

async function insertDevice({ $client }: Database): Promise<void> {
  await $client`
    insert into devices (pool_id, device_id, name, block_count, first_segment_id, segment_count, segments_touched, created_at)
    values (${poolId}, ${deviceId}, 'd', 400, 0, 100, 5, ${AT})`;
  const partition = `blocks_${deviceId.replaceAll("-", "")}`;
  await $client.unsafe(`create table ${partition} (like blocks including all)`);
  await $client.unsafe(`alter table blocks attach partition ${partition} for values in ('${deviceId}')`);
}

async function insertVolumes({ $client }: Database, version: number): Promise<void> {
  const owned = (id: string, segments: number) =>
    version < SPACE_FROM ? $client`` : $client`, ${id}::uuid, ${segments}::bigint`;
  const columns = version < SPACE_FROM ? $client`` : $client`, volume_id, segments_mapped`;
  await $client`
    insert into timelines (pool_id, timeline_id, open_epoch, parent_timeline_id, parent_epoch ${columns}) values
      (${poolId}, 1, 2, null, null ${owned(volumeId, 4)}), (${poolId}, 2, 0, 1, 0 ${owned(cloneId, 1)})`;
  await $client`
    insert into volumes (pool_id, volume_id, name, block_count, timeline_id, created_at) values
      (${poolId}, ${volumeId}, 'v', 16, 1, ${AT}), (${poolId}, ${cloneId}, 'w', 16, 2, ${AT})`;
}

async function insertMap({ $client }: Database, version: number): Promise<void> {
  await $client`
    insert into segment_map (pool_id, timeline_id, slot, epoch, segment_id, device_id) values
      (${poolId}, 1, 0, 0, 0, ${deviceId}), (${poolId}, 1, 0, 1, 1, ${deviceId}), (${poolId}, 1, 2, 1, 2, ${deviceId}),
      (${poolId}, 1, 0, 2, 3, ${deviceId}), (${poolId}, 2, 3, 0, 4, ${deviceId})`;
  if (version < SPACE_FROM) return;
  await $client`
    insert into epoch_space (pool_id, timeline_id, epoch, segments) values
      (${poolId}, 1, 0, 1), (${poolId}, 1, 1, 2), (${poolId}, 1, 2, 1), (${poolId}, 2, 0, 1)`;
}

async function insertEntries({ $client }: Database): Promise<void> {
  for (
    const [segment, index, sequence, stamp] of [[0, 0, 1, 1], [0, 1, 1, 2], [0, 2, 1, 3], [0, 3, 1, 4], [
      1,
      1,
      3,
      10,
    ]]
  ) {
    await $client`
      insert into blocks (pool_id, device_id, segment_id, block_index, sequence, data)
      values (${poolId}, ${deviceId}, ${segment}, ${index}, ${sequence}, ${fill(stamp, 1, 512)})`;
  }
  const entries: [
    sequence: number,
    kind: string,
    volume: string | null,
    lba: number | null,
    segment: number | null,
    first: number | null,
    count: number,
    data: Uint8Array | null,
  ][] = [
    [4, "write", volumeId, 8, 2, 0, 2, fill(20, 2, 512)],
    [5, "trim", volumeId, 2, 1, 2, 1, null],
    [6, "marker", null, null, null, null, 0, new TextEncoder().encode("$$$$$SNAPSHOTMARKER****.")],
    [7, "write", volumeId, 0, 3, 0, 1, fill(30, 1, 512)],
    [8, "write", cloneId, 15, 4, 3, 1, fill(40, 1, 512)],
  ];
  for (const [sequence, kind, volume, lba, segment, first, count, data] of entries) {
    await $client`
      insert into cache (pool_id, sequence, kind, client_id, priority, volume_id, lba, device_id, segment_id, first_block,
        block_count, size_bytes, appended_at, data)
      values (${poolId}, ${sequence}, ${kind}, ${clientId}, 0, ${volume}, ${lba}, ${
      segment === null ? null : deviceId
    },
        ${segment}, ${first}, ${count}, ${kind === "write" ? data?.length ?? 0 : 0}, ${AT}, ${data})`;
  }
}

async function insertSnapshots({ $client }: Database, version: number): Promise<void> {
  await $client`
    insert into snapshots (pool_id, snapshot_id, name, status, marker_sequence, bytes_before, audit_id, created_at, sealed_at)
    values (${poolId}, ${sealedId}, 's', 'sealed', 2, ${4 * 512}, ${id(13)}, ${AT}, ${AT}),
      (${poolId}, ${pendingId}, 't', 'pending', 6, ${7 * 512}, ${OLD.pendingAuditId}, ${AT}, null)`;
  const covered: [snapshotId: string, epoch: number, blockCount: number][] = [[sealedId, 0, 16], [
    pendingId,
    1,
    10,
  ]];
  for (const [snapshotId, epoch, blockCount] of covered) {
    const [columns, values] = version >= COVERED_FROM
      ? [$client`covered, volume_blocks`, $client`int8multirange(int8range(0, ${blockCount})), 16`]
      : version >= VOLUME_BLOCKS_FROM
      ? [$client`first_lba, block_count, volume_blocks`, $client`0, ${blockCount}, 16`]
      : [$client`first_lba, block_count`, $client`0, ${blockCount}`];
    await $client`
      insert into snapshot_volumes (pool_id, snapshot_id, volume_id, timeline_id, epoch, ${columns})
      values (${poolId}, ${snapshotId}, ${volumeId}, 1, ${epoch}, ${values})`;
  }
  if (version < SPACE_FROM) return;
  await $client`
    insert into snapshot_space (pool_id, snapshot_id, changed) values (${poolId}, ${sealedId}, 1), (${poolId}, ${pendingId}, 1)`;
}

interface OldRecord {
  readonly id: string;
  readonly action: string;
  readonly target: string;
  readonly name: string;
  readonly cdb?: string;
  readonly status?: string;
  readonly sequence?: number;
}

async function insertAudit({ $client }: Database, version: number): Promise<void> {
  const records: OldRecord[] = [
    { id: id(11), action: "pool.create", target: poolId, name: "p" },
    { id: id(12), action: "volume.create", target: volumeId, name: "v" },
    {
      id: id(13),
      action: "snapshot.create",
      target: sealedId,
      name: "s",
      cdb: IMMED,
      status: "GOOD",
      sequence: 2,
    },
    {
      id: OLD.pendingAuditId,
      action: "snapshot.create",
      target: pendingId,
      name: "t",
      cdb: NOT_IMMED,
      sequence: 6,
    },
  ];
  if (version >= CHAIN_FROM) {
    await $client`insert into audit_heads (pool_id) values (${poolId})`;
  }
  for (const { id, action, target, name, cdb = null, status = null, sequence = null } of records) {
    const phases = cdb === null ? null : '[{"at": "2026-01-01T00:00:00.123Z", "phase": "BUS FREE"}]';
    const row = $client`
      select ${poolId}::uuid as pool_id, ${id}::uuid as audit_id, ${AT}::timestamptz as at, ${clientId}::uuid as client_id,
        'tester'::text as client_name, 'test'::text as origin, ${action}::text as action, ${target}::uuid as target_id,
        ${name}::text as target_name, ${cdb}::text::bytea as cdb, null::bytea as data_out, ${status}::text as scsi_status,
        ${phases}::text::jsonb as phases, ${sequence}::bigint as marker_sequence`;
    if (version < CHAIN_FROM) {
      await $client`
        insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, target_name, cdb, data_out,
          scsi_status, phases, marker_sequence) ${row}`;
      continue;
    }
    await $client`
      with r as (${row}), head as (
        update audit_heads h set chain_number = h.chain_number + 1, chain_hash = chain_hash(h.chain_hash,
          array['record', r.pool_id::text, r.audit_id::text, chain_moment(r.at), r.client_id::text, r.client_name, r.origin,
            r.action, r.target_id::text, r.target_name, encode(r.cdb, 'hex'), encode(r.data_out, 'hex'), r.scsi_status,
            r.phases::text, r.marker_sequence::text])
        from r where h.pool_id = r.pool_id returning h.chain_number, h.chain_hash
      )
      insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, target_name, cdb, data_out,
        scsi_status, phases, marker_sequence, chain_number, chain_hash)
      select r.*, head.chain_number, head.chain_hash from r cross join head`;
  }
}
