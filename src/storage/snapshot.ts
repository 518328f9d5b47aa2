/**
 * Snapshots: the read-only contents of one or more volumes at a marker.
 *
 *     pending ──(nothing ahead of the marker is left in the cache)──► sealed
 *
 * {@linkcode placeMarker} takes them; here they are found, listed, and looked up for what they cover. A snapshot is readable from
 * its marker's commit on, as long as it is neither cancelled nor deleted.
 */

import { and, asc, eq, exists, gt, notExists, notInArray, type SQL, sql } from "drizzle-orm";
import type { Connection, Database } from "../database/client.ts";
import { audit, digestions, pools, poolTails, snapshots, snapshotVolumes } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import { type CoveredVolume, parseMultirange } from "./covered.ts";
import { isId, requireOne } from "./identifier.ts";
import { carriesLabels, type Labels, type LabelSelector, labelsOf } from "./label.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import type { Pool } from "./pool.ts";
import { type SealProgress, toProgress } from "./seal_progress.ts";
import { getSnapshotSpace, type SnapshotSpace } from "./space.ts";

export type SnapshotStatus = "pending" | "sealed" | "cancelled" | "failed";

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
  /** Over those of its volumes, once they were counted. */
  readonly digest?: Uint8Array;
  /** Of one that is sealed. */
  readonly verification?: Verification;
  /** Absent in lists, and of one that is cancelled. */
  readonly space?: SnapshotSpace;
  readonly auditId: string;
  /** The hash of its audit record in the chain. */
  readonly chainHash: Uint8Array;
  readonly cdb: Uint8Array;
}

/** Whether the blocks of a snapshot are what its digest says. */
export interface Verification {
  /** Whether they are being read, or are to be. */
  readonly running: boolean;
  readonly digestedAt?: Date;
  /** When they were last read; absent when they never were. */
  readonly checkedAt?: Date;
  /** What was found then. */
  readonly intact?: boolean;
}

/** Where a snapshot is, and when it was taken. */
export interface SnapshotPlace {
  readonly snapshotId: string;
  readonly pool: Pool;
  readonly createdAt: Date;
}

// Statements

function selectSnapshots(connection: Connection) {
  return connection.select({
    snapshot: snapshots,
    labels: labelsOf(snapshots.poolId, snapshots.snapshotId),
    covered: coveredOf(),
    pool: pools,
    tail: poolTails,
    cdb: audit.cdb,
    chainHash: audit.chainHash,
    digestion: digestions.createdAt,
  }).from(snapshots)
    .innerJoin(pools, eq(pools.poolId, snapshots.poolId))
    .innerJoin(poolTails, eq(poolTails.poolId, snapshots.poolId))
    .innerJoin(audit, and(eq(audit.poolId, snapshots.poolId), eq(audit.auditId, snapshots.auditId)))
    .leftJoin(
      digestions,
      and(eq(digestions.poolId, snapshots.poolId), eq(digestions.snapshotId, snapshots.snapshotId)),
    );
}

type SnapshotRow = Awaited<ReturnType<typeof selectSnapshots>>[number];

interface CoveredRow {
  volume_id: string;
  timeline_id: number;
  epoch: number;
  covered: string;
  volume_blocks: number;
  /** In hex. */
  digest: string | null;
  fault: string | null;
}

/**
 * What the snapshot of a statement's row covers, as one more column. By a statement of its own it would be what a
 * snapshot covers that was deleted in between: nothing.
 */
function coveredOf(): SQL<CoveredRow[]> {
  const { volumeId, timelineId, epoch, covered, volumeBlocks, digest, fault } = snapshotVolumes;
  return sql<CoveredRow[]>`(
    select coalesce(json_agg(json_build_object(
      'volume_id', ${volumeId}, 'timeline_id', ${timelineId}, 'epoch', ${epoch}, 'covered', ${covered}::text,
      'volume_blocks', ${volumeBlocks}, 'digest', encode(${digest}, 'hex'), 'fault', ${fault}) order by ${volumeId}), '[]')
    from ${snapshotVolumes}
    where ${snapshotVolumes.poolId} = ${snapshots.poolId} and ${snapshotVolumes.snapshotId} = ${snapshots.snapshotId})`;
}

function coversVolume(database: Database, volumeId: string) {
  return exists(
    database.select({ volumeId: snapshotVolumes.volumeId }).from(snapshotVolumes).where(and(
      eq(snapshotVolumes.poolId, snapshots.poolId),
      eq(snapshotVolumes.snapshotId, snapshots.snapshotId),
      eq(snapshotVolumes.volumeId, volumeId),
    )),
  );
}

function coversWithin(database: Database, volumeIds: string[]) {
  const covered = database.select({ volumeId: snapshotVolumes.volumeId }).from(snapshotVolumes);
  const [pool, snapshot] = [
    eq(snapshotVolumes.poolId, snapshots.poolId),
    eq(snapshotVolumes.snapshotId, snapshots.snapshotId),
  ];
  return and(
    exists(covered.where(and(pool, snapshot))),
    notExists(
      database.select({ volumeId: snapshotVolumes.volumeId }).from(snapshotVolumes)
        .where(and(pool, snapshot, notInArray(snapshotVolumes.volumeId, volumeIds))),
    ),
  );
}

function matchSnapshot(reference: string, poolId: string | undefined) {
  return and(
    isId(reference) ? eq(snapshots.snapshotId, reference) : eq(snapshots.name, reference),
    poolId === undefined ? undefined : eq(snapshots.poolId, poolId),
  );
}

// Verbs

/** @throws {StorageError} `snapshot-not-found`, `ambiguous-name`. */
export async function getSnapshot(
  connection: Connection,
  reference: string,
  poolId?: string,
): Promise<Snapshot> {
  const rows = await selectSnapshots(connection).where(matchSnapshot(reference, poolId)).limit(2);
  const row = requireOne(rows, "snapshot-not-found", reference);
  const snapshot = toSnapshot(row);
  const space = await getSnapshotSpace(connection, snapshot.pool, snapshot.snapshotId, snapshot.volumes);
  return { ...snapshot, ...(space === undefined ? {} : { space }) };
}

/** Which snapshots are wanted; what is absent does not restrict. */
export interface SnapshotFilter {
  readonly poolId?: string;
  /** Those that cover it, or a part of it. */
  readonly volumeId?: string;
  readonly status?: SnapshotStatus;
  /** Those that cover nothing but these. */
  readonly within?: string[];
  /** Those that carry all of them. */
  readonly labels: LabelSelector[];
}

/** The snapshots that are wanted, in order of creation. */
export async function listSnapshots(
  database: Database,
  { poolId, volumeId, status, within, labels: wanted }: SnapshotFilter,
  page: PageRequest,
): Promise<Page<Snapshot>> {
  const rows = await selectSnapshots(database).where(and(
    poolId === undefined ? undefined : eq(snapshots.poolId, poolId),
    volumeId === undefined ? undefined : coversVolume(database, volumeId),
    status === undefined ? undefined : eq(snapshots.status, status),
    within === undefined ? undefined : coversWithin(database, within),
    page.after === undefined ? undefined : gt(snapshots.snapshotId, page.after),
    await carriesLabels(database, snapshots.snapshotId, { kind: "snapshot", poolId, wanted }, page),
  )).orderBy(asc(snapshots.snapshotId)).limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.snapshot.snapshotId, toSnapshot);
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
    select volume_id, timeline_id, epoch, covered::text, volume_blocks, encode(digest, 'hex') as digest, fault
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
      `Cannot find volume ${volumeId} in snapshot ${snapshotId}: it covers others`,
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
    select volume_id, timeline_id, epoch, covered::text, volume_blocks, encode(digest, 'hex') as digest, fault
    from snapshot_volumes
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

function toCoveredVolume(row: CoveredRow): CoveredVolume {
  return {
    volumeId: row.volume_id,
    timelineId: row.timeline_id,
    epoch: row.epoch,
    ranges: parseMultirange(row.covered),
    volumeBlocks: row.volume_blocks,
    ...(row.digest === null ? {} : { digest: Uint8Array.fromHex(row.digest) }),
    ...(row.fault === null ? {} : { fault: row.fault }),
  };
}

function toSnapshot(
  { snapshot, labels, covered, pool, tail, cdb, chainHash, digestion }: SnapshotRow,
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
    volumes: covered.map(toCoveredVolume),
    createdAt: snapshot.createdAt,
    ...(snapshot.sealedAt === null ? {} : { sealedAt: snapshot.sealedAt }),
    ...(snapshot.heldUntil === null
      ? {}
      : { hold: { until: snapshot.heldUntil, reason: snapshot.holdReason ?? "" } }),
    ...(snapshot.digest === null ? {} : { digest: snapshot.digest }),
    ...(snapshot.status !== "sealed" ? {} : { verification: toVerification(snapshot, digestion !== null) }),
    progress: toProgress(snapshot, tail),
    auditId: snapshot.auditId,
    chainHash,
    cdb: cdb as Uint8Array,
  };
}

function toVerification(
  { digestedAt, checkedAt, intact }: SnapshotRow["snapshot"],
  isRead: boolean,
): Verification {
  return {
    running: isRead || checkedAt === null,
    ...(digestedAt === null ? {} : { digestedAt }),
    ...(checkedAt === null ? {} : { checkedAt }),
    ...(intact === null ? {} : { intact }),
  };
}
