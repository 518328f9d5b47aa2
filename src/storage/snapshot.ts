/**
 * Snapshots: the read-only contents of one or more volumes at a marker.
 *
 *     pending ──(nothing ahead of the marker is left in the cache)──► sealed
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
 * The steps of {@linkcode placeMarker}:
 * 1. lock the pool
 * 2. find the volumes, judge the range
 * 3. append the marker, insert the snapshot and what it covers
 * 4. close the epochs, move the head
 * 5. write the audit record and the event
 */

import { and, asc, eq, gt } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { audit, pools, poolTails, snapshots } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { SnapshotCdb } from "../scsi/cdb.ts";
import { completedPhases, disconnectedPhases, selectionPhases } from "../scsi/phases.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { type BlockRange, requireInside } from "./block.ts";
import { insertMarker } from "./cache.ts";
import {
  type CoveredVolume,
  formatMultirange,
  mergeRanges,
  parseMultirange,
  type VolumeRange,
} from "./covered.ts";
import { appendEvent } from "./event.ts";
import type { HeadMove } from "./head_move.ts";
import { createId, isId, requireName, requireOne } from "./identifier.ts";
import { carriesLabels, insertLabels, type Labels, type LabelSelector, labelsOf } from "./label.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import { advancePool, lockPool, type Pool, type PoolHead } from "./pool.ts";
import { appendClosedReclaims } from "./reclaim.ts";
import { getSnapshotSpace, insertSpace, type SnapshotSpace } from "./space.ts";
import { closeEpochs } from "./timeline.ts";

export type SnapshotStatus = "pending" | "sealed" | "cancelled" | "failed";

/** How far a snapshot is from its seal; nothing is ahead of a sealed one. */
export interface SealProgress {
  readonly entriesAhead: number;
  readonly bytesAhead: number;
  /** The flusher's rate of late; 0 before it is known. */
  readonly bytesPerSecond: number;
  /** Absent while the rate is not known. */
  readonly etaSeconds?: number;
  /** The same by client, the largest first, where that was looked for. */
  readonly byClient?: ClientShare[];
}

/** What a client has ahead of a marker; without an id, what several have together. */
export interface ClientShare {
  readonly clientId?: string;
  readonly entriesAhead: number;
  readonly bytesAhead: number;
}

export interface Snapshot {
  readonly pool: Pool;
  readonly snapshotId: string;
  readonly name?: string;
  readonly description?: string;
  readonly labels: Labels;
  /** The schedule that took it; it may be gone. */
  readonly scheduleId?: string;
  readonly status: SnapshotStatus;
  /** The marker's sequence: writes below it are inside, all others are not. */
  readonly sequence: number;
  readonly volumes: CoveredVolume[];
  readonly createdAt: Date;
  readonly sealedAt?: Date;
  /** Cannot be deleted before. */
  readonly hold?: { readonly until: Date; readonly reason: string };
  readonly progress: SealProgress;
  /** Absent in lists, and of one that is cancelled. */
  readonly space?: SnapshotSpace;
  readonly auditId: string;
  readonly cdb: Uint8Array;
}

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

// Statements

interface VolumeRow {
  volume_id: string;
  name: string;
  block_count: number;
  timeline_id: number;
  open_epoch: number;
}

async function selectVolumes(
  tx: Transaction,
  poolId: string,
  volumeIds: string[] | "all",
): Promise<VolumeRow[]> {
  const { $client } = tx;
  const chosen = volumeIds === "all" ? $client`` : $client`and v.volume_id = any(${volumeIds}::uuid[])`;
  return await $client<VolumeRow[]>`
    select v.volume_id, v.name, v.block_count, v.timeline_id, t.open_epoch
    from volumes v join timelines t on t.pool_id = v.pool_id and t.timeline_id = v.timeline_id
    where v.pool_id = ${poolId} and v.deleted_at is null ${chosen}
    order by v.volume_id`;
}

async function insertSnapshot(
  tx: Transaction,
  poolId: string,
  { snapshotId, name, description, scheduleId, head, at }: Marker,
  sequence: number,
  auditId: string,
): Promise<void> {
  await tx.$client`
    insert into snapshots (pool_id, snapshot_id, name, description, status, marker_sequence, bytes_before, audit_id,
      created_at, schedule_id)
    values (${poolId}, ${snapshotId}, ${name ?? null}, ${description ?? null}, 'pending', ${sequence},
      ${head.bytesAppended}, ${auditId}, ${at.toISOString()}, ${scheduleId ?? null})`;
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

function selectSnapshots(connection: Connection) {
  return connection.select({
    snapshot: snapshots,
    labels: labelsOf(snapshots.poolId, snapshots.snapshotId),
    pool: pools,
    tail: poolTails,
    cdb: audit.cdb,
  }).from(snapshots)
    .innerJoin(pools, eq(pools.poolId, snapshots.poolId))
    .innerJoin(poolTails, eq(poolTails.poolId, snapshots.poolId))
    .innerJoin(audit, and(eq(audit.poolId, snapshots.poolId), eq(audit.auditId, snapshots.auditId)));
}

type SnapshotRow = Awaited<ReturnType<typeof selectSnapshots>>[number];

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
  const covered = toCovered(rows, request);
  // 3. to 5.
  await writeSnapshot(tx, actor, pool, { ...request, snapshotId, head, covered, at: clock() });
  const { sequenceAppended, mapVersion } = head;
  const left = { ...head, sequenceAppended: sequenceAppended + 1, mapVersion: mapVersion + 1 };
  const opened = covered.map(({ volumeId, epoch }) => ({ volumeId, epoch: epoch + 1 }));
  return { snapshotId, found: head, left, opened };
}

/** Tells a name that another snapshot of the pool has from other faults. @throws {StorageError} `name-taken`. */
export async function requireNewSnapshotName<T>(
  name: string | undefined,
  take: () => Promise<T>,
): Promise<T> {
  try {
    return await take();
  } catch (error) {
    if (!isUniqueViolation(error, "snapshots_name")) throw error;
    throw isNameTaken(name);
  }
}

/** Looks ahead whether a snapshot could have that name. @throws {StorageError} `name-taken`. */
export async function requireFreeSnapshotName(
  connection: Connection,
  poolId: string,
  name: string,
): Promise<void> {
  if (!await isFreeSnapshotName(connection, poolId, name)) throw isNameTaken(name);
}

/** Tells whether no snapshot of the pool has that name. */
export async function isFreeSnapshotName(
  connection: Connection,
  poolId: string,
  name: string,
): Promise<boolean> {
  const taken = await connection.select({ name: snapshots.name }).from(snapshots)
    .where(and(eq(snapshots.poolId, poolId), eq(snapshots.name, name))).limit(1);
  return taken.length === 0;
}

function isNameTaken(name: string | undefined): StorageError {
  return new StorageError("name-taken", `Cannot take snapshot ${name}: the pool has one of that name`);
}

interface Marker extends MarkerRequest {
  readonly snapshotId: string;
  readonly head: PoolHead;
  readonly covered: CoveredVolume[];
  readonly at: Date;
}

/**
 * Steps 3 to 5. Statements on one connection are carried out in the order in which they are sent, and need not wait for
 * each other's answers. The event comes last.
 */
async function writeSnapshot(tx: Transaction, actor: Actor, pool: Pool, marker: Marker): Promise<void> {
  const { poolId } = pool;
  const { snapshotId, head, covered, labels, at } = marker;
  const sequence = head.sequenceAppended + 1;
  const auditId = createId();
  await Promise.all([
    insertMarker(tx, poolId, { sequence, clientId: actor.clientId, priority: actor.priority }, at),
    insertSnapshot(tx, poolId, marker, sequence, auditId),
    insertCovered(tx, poolId, snapshotId, covered),
    insertSpace(tx, poolId, snapshotId, covered),
    insertLabels(tx, poolId, { kind: "snapshot", targetId: snapshotId }, labels),
    appendClosedReclaims(tx, poolId, covered, at),
    closeEpochs(tx, poolId, covered.map(({ timelineId }) => timelineId)),
    advancePool(tx, poolId, { sequences: 1, mapVersions: 1 }),
    appendAudit(tx, actor, toAudit(marker, poolId, auditId, sequence)),
    appendEvent(tx, poolId, toEvent(marker, sequence)),
  ]);
}

function toAudit(marker: Marker, poolId: string, auditId: string, markerSequence: number) {
  const { snapshotId, name, command, cdb, dataOut, receivedAt, at } = marker;
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
      ...(command.immed ? { scsiStatus: "GOOD" as const } : {}),
      phases: [...selected, ...(command.immed ? completedPhases(at) : disconnectedPhases(at))],
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

/** @throws {StorageError} `snapshot-not-found`, `ambiguous-name`. */
export async function getSnapshot(
  connection: Connection,
  reference: string,
  poolId?: string,
): Promise<Snapshot> {
  const rows = await selectSnapshots(connection).where(matchSnapshot(reference, poolId)).limit(2);
  const row = requireOne(rows, "snapshot-not-found", reference);
  const snapshot = toSnapshot(row, await selectCovered(connection, [row]));
  const space = await getSnapshotSpace(connection, snapshot.pool, snapshot.snapshotId, snapshot.volumes);
  return { ...snapshot, ...(space === undefined ? {} : { space }) };
}

/** The snapshots, of one pool or of all, that carry all of the labels, in order of creation. */
export async function listSnapshots(
  database: Database,
  poolId: string | undefined,
  wanted: LabelSelector[],
  page: PageRequest,
): Promise<Page<Snapshot>> {
  const rows = await selectSnapshots(database).where(and(
    poolId === undefined ? undefined : eq(snapshots.poolId, poolId),
    page.after === undefined ? undefined : gt(snapshots.snapshotId, page.after),
    await carriesLabels(database, snapshots.snapshotId, { kind: "snapshot", poolId, wanted }, page),
  )).orderBy(asc(snapshots.snapshotId)).limit(page.itemsMax + 1);
  const covered = await selectCovered(database, rows);
  return toPage(rows, page, (row) => row.snapshot.snapshotId, (row) => toSnapshot(row, covered));
}

/** Where a snapshot is, and when it was taken. */
export interface SnapshotPlace {
  readonly snapshotId: string;
  readonly pool: Pool;
  readonly createdAt: Date;
}

/** Where a snapshot is: enough to read from it. @throws {StorageError} `snapshot-not-found`, `ambiguous-name`. */
export async function findSnapshotPlace(
  database: Database,
  reference: string,
  poolId?: string,
): Promise<SnapshotPlace> {
  const { snapshotId, createdAt } = snapshots;
  const rows = await database.select({ snapshotId, createdAt, pool: pools }).from(snapshots)
    .innerJoin(pools, eq(pools.poolId, snapshots.poolId))
    .where(matchSnapshot(reference, poolId)).limit(2);
  return requireOne(rows, "snapshot-not-found", reference);
}

/**
 * What a snapshot covers of the volume that a read means: the one of that id, or the only one.
 *
 * @throws {StorageError} `snapshot-not-found` when it is gone or cancelled, `outside-snapshot` for a volume it does not cover, `invalid-argument` when one must be named.
 */
export async function getCovered(
  connection: Connection,
  poolId: string,
  snapshotId: string,
  volumeId?: string,
): Promise<CoveredVolume> {
  const { $client } = connection;
  const chosen = volumeId === undefined ? $client`` : $client`and volume_id = ${volumeId}`;
  const rows = await $client<CoveredRow[]>`
    select snapshot_id, volume_id, timeline_id, epoch, covered::text, volume_blocks
    from snapshot_volumes v
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} ${chosen} and exists (
      select from snapshots s
      where s.pool_id = v.pool_id and s.snapshot_id = v.snapshot_id and s.status in ('pending', 'sealed')
    )
    limit 2`;
  if (rows.length === 1) return toCoveredVolume(rows[0]);
  await requireReadable(connection, poolId, snapshotId);
  if (volumeId !== undefined) {
    throw new StorageError(
      "outside-snapshot",
      `Cannot read volume ${volumeId}: the snapshot does not cover it`,
    );
  }
  throw new StorageError(
    "invalid-argument",
    `Cannot tell which volume to read: the snapshot covers ${
      rows.length === 0 ? "none" : "several"
    }; name one`,
  );
}

/** All that a snapshot covers, which may be none, also when it is gone. */
export async function listCovered(
  { $client }: Connection,
  poolId: string,
  snapshotId: string,
): Promise<CoveredVolume[]> {
  const rows = await $client<CoveredRow[]>`
    select snapshot_id, volume_id, timeline_id, epoch, covered::text, volume_blocks from snapshot_volumes
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} order by volume_id`;
  return rows.map(toCoveredVolume);
}

/**
 * Demands that there is a snapshot whose contents can be read. What was read before is then right: nothing of a snapshot is
 * reclaimed before it is gone.
 *
 * @throws {StorageError} `snapshot-not-found`.
 */
export async function requireReadable(
  { $client }: Connection,
  poolId: string,
  snapshotId: string,
): Promise<void> {
  const [row] = await $client`
    select from snapshots
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} and status in ('pending', 'sealed')`;
  if (row === undefined) {
    throw new StorageError(
      "snapshot-not-found",
      `Cannot read snapshot ${snapshotId}: it is deleted or cancelled`,
    );
  }
}

/** What is left to flush before the seal of a snapshot, and how long that takes at the flusher's rate. */
export function toProgress(
  { markerSequence, bytesBefore }: { markerSequence: number; bytesBefore: number },
  tail: { entriesFlushed: number; bytesFlushed: number; bytesPerSecond: number },
): SealProgress {
  // No entry behind the oldest marker is ever flushed before it, so all that was flushed was ahead of this one.
  const entriesAhead = Math.max(0, markerSequence - 1 - tail.entriesFlushed);
  const bytesAhead = Math.max(0, bytesBefore - tail.bytesFlushed);
  return estimateSeal({ entriesAhead, bytesAhead }, tail.bytesPerSecond);
}

/** How long what is ahead of a marker takes at that rate. */
export function estimateSeal(
  { entriesAhead, bytesAhead }: ClientShare,
  bytesPerSecond: number,
): SealProgress {
  return {
    entriesAhead,
    bytesAhead,
    bytesPerSecond,
    ...(bytesPerSecond > 0 ? { etaSeconds: bytesAhead / bytesPerSecond } : {}),
  };
}

/** What each of the snapshots covers, by its id. */
async function selectCovered(
  { $client }: Connection,
  rows: SnapshotRow[],
): Promise<Map<string, CoveredVolume[]>> {
  const ids = rows.map(({ snapshot }) => snapshot.snapshotId);
  const poolIds = [...new Set(rows.map(({ snapshot }) => snapshot.poolId))];
  const covered = await $client<CoveredRow[]>`
    select snapshot_id, volume_id, timeline_id, epoch, covered::text, volume_blocks
    from snapshot_volumes
    where pool_id = any(${poolIds}::uuid[]) and snapshot_id = any(${ids}::uuid[])
    order by volume_id`;
  const byId = new Map<string, CoveredVolume[]>(ids.map((id) => [id, []]));
  for (const row of covered) byId.get(row.snapshot_id)?.push(toCoveredVolume(row));
  return byId;
}

function matchSnapshot(reference: string, poolId: string | undefined) {
  return and(
    isId(reference) ? eq(snapshots.snapshotId, reference) : eq(snapshots.name, reference),
    poolId === undefined ? undefined : eq(snapshots.poolId, poolId),
  );
}

function toCoveredVolume(row: CoveredRow): CoveredVolume {
  return {
    volumeId: row.volume_id,
    timelineId: row.timeline_id,
    epoch: row.epoch,
    ranges: parseMultirange(row.covered),
    volumeBlocks: row.volume_blocks,
  };
}

interface CoveredRow {
  snapshot_id: string;
  volume_id: string;
  timeline_id: number;
  epoch: number;
  covered: string;
  volume_blocks: number;
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

function toSnapshot(
  { snapshot, labels, pool, tail, cdb }: SnapshotRow,
  covered: Map<string, CoveredVolume[]>,
): Snapshot {
  return {
    pool,
    snapshotId: snapshot.snapshotId,
    ...(snapshot.name === null ? {} : { name: snapshot.name }),
    ...(snapshot.description === null ? {} : { description: snapshot.description }),
    labels,
    ...(snapshot.scheduleId === null ? {} : { scheduleId: snapshot.scheduleId }),
    status: snapshot.status,
    sequence: snapshot.markerSequence,
    volumes: covered.get(snapshot.snapshotId) ?? [],
    createdAt: snapshot.createdAt,
    ...(snapshot.sealedAt === null ? {} : { sealedAt: snapshot.sealedAt }),
    ...(snapshot.heldUntil === null
      ? {}
      : { hold: { until: snapshot.heldUntil, reason: snapshot.holdReason ?? "" } }),
    progress: toProgress(snapshot, tail),
    auditId: snapshot.auditId,
    cdb: cdb as Uint8Array,
  };
}
