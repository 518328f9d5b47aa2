/**
 * Markers: taking a snapshot is putting a marker at the tail of the queue.
 *
 * Invariants kept here:
 * - *Exact* (3): a snapshot whose marker has sequence m is the replay of all its volumes' writes with a sequence below m.
 *   The marker takes its number under the pool row's lock, and in the same transaction closes the open epoch of every
 *   volume it covers. What was appended before belongs to that epoch or an older one; what comes after can only
 *   land in a later one. So its contents are fixed, and readable, from the marker's commit on.
 * - *Unpaused* (5): that transaction is a handful of short statements, however much the cache holds and however large
 *   the volumes are. An append waits for it as it would for one more batch, and nothing else.
 * - *One lock* (8): closing epochs changes where appends go, so it raises the map version.
 * - *Told truthfully* (9): snapshot, audit record and event are one transaction with the marker.
 *
 * In a write-through pool nothing is ahead of a marker, unless something is left in the cache from before. Then the snapshot is
 * sealed here, in the same transaction, and its marker is never put into the queue: it takes a sequence, an epoch and its
 * place in the audit like any other, and its command is never disconnected.
 *
 * The steps of {@linkcode placeMarker}:
 * 1. lock the pool
 * 2. find the volumes, judge the range
 * 3. append the marker, insert the snapshot and what it covers
 * 4. close the epochs, move the head
 * 5. write the audit record and the event
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { SnapshotCdb } from "../scsi/cdb.ts";
import { completedPhases, disconnectedPhases, selectionPhases } from "../scsi/phases.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { type BlockRange, requireInside } from "./block.ts";
import { insertMarker } from "./cache.ts";
import { type CoveredVolume, formatMultirange, mergeRanges, type VolumeRange } from "./covered.ts";
import { appendEvent } from "./event.ts";
import type { HeadMove } from "./head_move.ts";
import { createId, requireName } from "./identifier.ts";
import { insertLabels, type Labels } from "./label.ts";
import { advancePool, lockPool, type Pool, type PoolHead } from "./pool.ts";
import { appendClosedReclaims } from "./reclaim_task.ts";
import { requireNewSnapshotName } from "./snapshot_name.ts";
import { insertSpace } from "./space.ts";
import { closeEpochs } from "./timeline.ts";

/** A decoded snapshot command, ready to be carried out. */
export interface MarkerRequest {
  readonly name?: string;
  readonly description?: string;
  /** The volumes to cover, or `all` of the pool. */
  readonly volumeIds: string[] | "all";
  /** What to cover of some of them; the others are covered whole. */
  readonly ranges: VolumeRange[];
  readonly command: SnapshotCdb;
  readonly cdb: Uint8Array;
  readonly dataOut?: Uint8Array;
  readonly labels: Labels;
  /** The schedule whose run it is. */
  readonly scheduleId?: string;
  readonly receivedAt: Date;
}

/** A snapshot whose marker is committed. */
export interface PlacedMarker extends HeadMove {
  readonly snapshotId: string;
}

interface Marker extends MarkerRequest {
  readonly snapshotId: string;
  readonly head: PoolHead;
  readonly covered: CoveredVolume[];
  /** Nothing is ahead of it. */
  readonly isSealed: boolean;
  readonly at: Date;
}

// Statements

interface VolumeRow {
  volume_id: string;
  name: string;
  block_count: number;
  timeline_id: number;
  open_epoch: number;
  snapshots_max: number | null;
  /** Counted up to that. */
  snapshot_count: number | null;
}

async function selectVolumes(
  tx: Transaction,
  poolId: string,
  volumeIds: string[] | "all",
): Promise<VolumeRow[]> {
  const { $client } = tx;
  const chosen = volumeIds === "all" ? $client`` : $client`and v.volume_id = any(${volumeIds}::uuid[])`;
  return await $client<VolumeRow[]>`
    select v.volume_id, v.name, v.block_count, v.timeline_id, t.open_epoch, v.snapshots_max,
      case when v.snapshots_max is not null then (
        select count(*) from (
          select from timelines l
          join snapshot_volumes c on c.pool_id = l.pool_id and c.timeline_id = l.timeline_id
          join snapshots s on s.pool_id = c.pool_id and s.snapshot_id = c.snapshot_id
          where l.pool_id = v.pool_id and l.volume_id = v.volume_id and s.status in ('pending', 'sealed')
          limit v.snapshots_max
        ) taken
      ) end as snapshot_count
    from volumes v join timelines t on t.pool_id = v.pool_id and t.timeline_id = v.timeline_id
    where v.pool_id = ${poolId} and v.deleted_at is null ${chosen}
    order by v.volume_id`;
}

async function insertSnapshot(
  tx: Transaction,
  poolId: string,
  { snapshotId, name, description, scheduleId, head, isSealed, at }: Marker,
  sequence: number,
  auditId: string,
): Promise<void> {
  await tx.$client`
    insert into snapshots (pool_id, snapshot_id, name, description, status, marker_sequence, bytes_before, audit_id,
      created_at, schedule_id, entries_through, sealed_at)
    values (${poolId}, ${snapshotId}, ${name ?? null}, ${description ?? null}, ${
    isSealed ? "sealed" : "pending"
  }, ${sequence},
      ${head.bytesAppended}, ${auditId}, ${at.toISOString()}, ${scheduleId ?? null}, ${head.entriesThrough},
      ${isSealed ? at.toISOString() : null})`;
}

async function insertCovered(
  tx: Transaction,
  poolId: string,
  snapshotId: string,
  covered: CoveredVolume[],
): Promise<void> {
  await tx.$client`
    insert into snapshot_volumes (pool_id, snapshot_id, volume_id, timeline_id, epoch, covered, volume_blocks)
    select ${poolId}, ${snapshotId}, * from unnest(
      ${covered.map((volume) => volume.volumeId)}::uuid[], ${
    covered.map((volume) => volume.timelineId)
  }::bigint[],
      ${covered.map((volume) => volume.epoch)}::bigint[],
      ${covered.map(({ ranges }) => formatMultirange(ranges))}::int8multirange[], ${
    covered.map((volume) => volume.volumeBlocks)
  }::bigint[])`;
}

// Verbs

/**
 * Takes a snapshot: puts its marker at the tail of the queue. Answers once that is committed, with where it found the pool's
 * head, where it left it, and which epochs are now open.
 *
 * @throws {StorageError} `volume-not-found`, `lba-out-of-range`, `name-taken`, `invalid-argument`.
 */
export async function placeMarker(
  database: Database,
  actor: Actor,
  pool: Pool,
  request: MarkerRequest,
  clock: () => Date,
): Promise<PlacedMarker> {
  if (request.name !== undefined) requireName(request.name);
  return await requireNewSnapshotName(
    request.name,
    () => transact(database, (tx) => placeMarkerWithin(tx, actor, pool, request, clock)),
  );
}

/** The same as a part of `tx`, which then holds the pool's lock. */
export async function placeMarkerWithin(
  tx: Transaction,
  actor: Actor,
  pool: Pool,
  request: MarkerRequest,
  clock: () => Date,
): Promise<PlacedMarker> {
  const snapshotId = createId();
  // 1. and 2. In this order, though sent at once
  const [head, rows] = await Promise.all([
    lockPool(tx, pool.poolId),
    selectVolumes(tx, pool.poolId, request.volumeIds),
  ]);
  requireFew(rows);
  const covered = toCovered(rows, request);
  // 3. to 5.
  const isSealed = head.cacheMode === "write-through" && head.dirtyEntries === 0;
  await writeSnapshot(tx, actor, pool, { ...request, snapshotId, head, covered, isSealed, at: clock() });
  const left = {
    ...head,
    sequenceAppended: head.sequenceAppended + 1,
    mapVersion: head.mapVersion + 1,
    ...(isSealed ? { entriesThrough: head.entriesThrough + 1 } : { dirtyEntries: head.dirtyEntries + 1 }),
  };
  const opened = covered.map(({ volumeId, epoch }) => ({ volumeId, epoch: epoch + 1 }));
  return { snapshotId, found: head, left, opened };
}

/**
 * Steps 3 to 5. Statements on one connection are carried out in the order in which they are sent, and need not wait for
 * each other's answers. The event comes last.
 */
async function writeSnapshot(tx: Transaction, actor: Actor, pool: Pool, marker: Marker): Promise<void> {
  const { poolId } = pool;
  const { snapshotId, head, covered, labels, isSealed, at } = marker;
  const sequence = head.sequenceAppended + 1;
  const auditId = createId();
  await Promise.all([
    isSealed
      ? undefined
      : insertMarker(tx, poolId, { sequence, clientId: actor.clientId, priority: actor.priority }, at),
    insertSnapshot(tx, poolId, marker, sequence, auditId),
    insertCovered(tx, poolId, snapshotId, covered),
    insertSpace(tx, poolId, snapshotId, covered),
    insertLabels(tx, poolId, { kind: "snapshot", targetId: snapshotId }, labels),
    appendClosedReclaims(tx, poolId, covered, at),
    closeEpochs(tx, poolId, covered.map(({ timelineId }) => timelineId)),
    advancePool(tx, poolId, { sequences: 1, through: isSealed ? 1 : 0, mapVersions: 1 }),
    appendAudit(tx, actor, toAudit(marker, poolId, auditId, sequence)),
    appendEvent(tx, poolId, toEvent(marker, sequence)),
    isSealed
      ? appendEvent(tx, poolId, { type: "snapshot.sealed", at, snapshotId, body: { sequence } })
      : undefined,
  ]);
}

function toAudit(marker: Marker, poolId: string, auditId: string, markerSequence: number) {
  const { snapshotId, name, command, cdb, dataOut, receivedAt, isSealed, at } = marker;
  const isEnded = command.immed || isSealed;
  const selected = selectionPhases({ receivedAt, dataOut: dataOut !== undefined });
  return {
    poolId,
    auditId,
    at,
    action: "snapshot.create" as const,
    targetId: snapshotId,
    ...(name === undefined ? {} : { targetName: name }),
    command: {
      cdb,
      markerSequence,
      ...(dataOut === undefined ? {} : { dataOut }),
      ...(isEnded ? { scsiStatus: "GOOD" as const } : {}),
      phases: [...selected, ...(isEnded ? completedPhases(at) : disconnectedPhases(at))],
    },
  };
}

function toEvent({ snapshotId, name, head, at, covered }: Marker, sequence: number) {
  return {
    type: "marker.committed" as const,
    at,
    snapshotId,
    body: {
      sequence,
      volumeCount: covered.length,
      bytesAhead: head.dirtyBytes,
      ...(name === undefined ? {} : { name }),
    },
  };
}

/** Demands that every volume may have one more snapshot. */
function requireFew(rows: VolumeRow[]): void {
  const full = rows.find((row) => row.snapshots_max !== null && row.snapshot_count === row.snapshots_max);
  if (full === undefined) return;
  throw new StorageError(
    "too-many-snapshots",
    `Cannot take a snapshot of volume ${full.name}: it has ${full.snapshots_max}, and may have no more; delete one before`,
  );
}

function toCovered(rows: VolumeRow[], { volumeIds, ranges }: MarkerRequest): CoveredVolume[] {
  if (volumeIds !== "all") {
    const missing = volumeIds.find((id) => !rows.some((row) => row.volume_id === id));
    if (missing !== undefined) throw new StorageError("volume-not-found", `Cannot find volume ${missing}`);
  }
  const byVolume = Map.groupBy(ranges, ({ volumeId }) => volumeId);
  return rows.map((row) => ({
    volumeId: row.volume_id,
    timelineId: row.timeline_id,
    epoch: row.open_epoch,
    ranges: toCoveredRanges(row, byVolume.get(row.volume_id) ?? [{ lba: 0, blockCount: 0 }]),
    volumeBlocks: row.block_count,
  }));
}

function toCoveredRanges({ block_count: volumeBlocks }: VolumeRow, ranges: BlockRange[]): BlockRange[] {
  return mergeRanges(ranges.map(({ lba, blockCount: asked }) => {
    const range = { lba, blockCount: asked === 0 ? volumeBlocks - lba : asked };
    requireInside(range, volumeBlocks, "snapshot");
    return range;
  }));
}
