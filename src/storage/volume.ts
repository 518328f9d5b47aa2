/**
 * Volumes: what clients address. A volume is a name, a size and the timeline that holds its contents; it may be larger
 * than all devices together, for it takes segments only where it is written.
 *
 * Invariant, *one lock* (8): growing and deleting change what an append may do, so they take the pool row's lock and raise
 * the map version. Creating only adds: who does not know a volume looks it up. Labels are no concern of an append: a change of
 * theirs takes the volume's own row only.
 *
 * A deleted volume keeps its row, because events and snapshots name it; what only it could read is reclaimed.
 */

import { and, asc, eq, gt, inArray, isNull, or, sql } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { pools, timelines, volumes } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit, type AuditAction, type NewAuditRecord } from "./audit.ts";
import { requireBlockCount } from "./block.ts";
import { appendEvent, type EventType, type NewEvent } from "./event.ts";
import { createId, isId, requireName, requireOne } from "./identifier.ts";
import {
  carriesLabels,
  deleteLabels,
  insertLabels,
  type LabelPatch,
  type Labels,
  type LabelSelector,
  labelsOf,
  patchLabels,
  requireLabels,
} from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import { advancePool, lockPool, type Pool } from "./pool.ts";
import { appendReclaims } from "./reclaim_task.ts";
import { createTimeline, EPOCH_LIVE } from "./timeline.ts";

/** A volume and the pool it lives in. */
export interface Volume {
  readonly volumeId: string;
  readonly name: string;
  readonly blockCount: number;
  readonly timelineId: number;
  readonly createdAt: Date;
  readonly labels: Labels;
  /** Segments that it has taken, on all of its timelines: also what only its snapshots read. */
  readonly mappedSegments: number;
  /** How many snapshots it may have; absent for any number. */
  readonly snapshotsMax?: number;
  readonly pool: Pool;
}

/** What to make of nothing. */
export interface NewVolume {
  readonly name: string;
  readonly blockCount: number;
  readonly labels?: Labels;
}

/** What to change of a volume; what is absent stays. */
export interface VolumeChange {
  readonly blockCount?: number;
  readonly labels?: LabelPatch;
  /** Null for any number. */
  readonly snapshotsMax?: number | null;
}

// Statements

function selectVolumes(connection: Connection) {
  const labels = labelsOf(volumes.poolId, volumes.volumeId);
  const mappedSegments = sql<number>`(
    select coalesce(sum(${timelines.segmentsMapped}), 0)::bigint from ${timelines}
    where ${timelines.poolId} = ${volumes.poolId} and ${timelines.volumeId} = ${volumes.volumeId}
  )`;
  return connection.select({ volume: volumes, pool: pools, labels, mappedSegments }).from(volumes)
    .innerJoin(pools, eq(pools.poolId, volumes.poolId));
}

/** Locks a volume's row until the transaction ends. */
export async function lockVolume(tx: Transaction, poolId: string, volumeId: string): Promise<void> {
  await tx.$client`
    select from volumes where pool_id = ${poolId} and volume_id = ${volumeId} for no key update`;
}

// Verbs

/**
 * Creates a volume that reads as zeros.
 *
 * @throws {StorageError} `name-taken`, `invalid-argument`.
 */
export async function createVolume(
  database: Database,
  actor: Actor,
  pool: Pool,
  input: NewVolume,
  limits: StorageLimits,
  at: Date,
): Promise<Volume> {
  return await requireNewName(
    input.name,
    () => transact(database, (tx) => createVolumeWithin(tx, actor, pool, createId(), input, limits, at)),
  );
}

/** The same as a part of `tx`, which then holds the pool's lock, and with an id that is chosen before. */
export async function createVolumeWithin(
  tx: Transaction,
  actor: Actor,
  pool: Pool,
  volumeId: string,
  { name, blockCount, labels = {} }: NewVolume,
  limits: StorageLimits,
  at: Date,
): Promise<Volume> {
  requireName(name);
  requireBlockCount(blockCount);
  requireLabels(labels, limits);
  const { poolId } = pool;
  const timelineId = await createTimeline(tx, poolId, await lockPool(tx, poolId), volumeId);
  const volume = { name, blockCount, labels, pool, volumeId, timelineId, createdAt: at, mappedSegments: 0 };
  await insertVolume(tx, volume);
  await appendAudit(tx, actor, toVolumeAudit(volume, "volume.create", at));
  await appendEvent(tx, poolId, toVolumeEvent(volume, "volume.created", at));
  return volume;
}

/** Adds a volume's row, and its labels. The pool is locked. */
export async function insertVolume(
  tx: Transaction,
  { pool, labels, mappedSegments: _, ...volume }: Volume,
): Promise<void> {
  await tx.insert(volumes).values({ poolId: pool.poolId, ...volume });
  await insertLabels(tx, pool.poolId, { kind: "volume", targetId: volume.volumeId }, labels);
}

/** Gives a volume the timeline and the size that `volume` says. The pool is locked. */
export async function switchTimeline(
  tx: Transaction,
  { pool: { poolId }, volumeId, timelineId, blockCount }: Volume,
): Promise<void> {
  await tx.update(volumes).set({ timelineId, blockCount })
    .where(and(eq(volumes.poolId, poolId), eq(volumes.volumeId, volumeId)));
  await advancePool(tx, poolId, { mapVersions: 1 });
}

/** Tells a name that another volume of the pool has from other faults of `create`. @throws {StorageError} `name-taken`. */
export async function requireNewName<T>(name: string, create: () => Promise<T>): Promise<T> {
  try {
    return await create();
  } catch (error) {
    if (!isUniqueViolation(error, "volumes_name")) throw error;
    throw new StorageError("name-taken", `Cannot create volume ${name}: the pool has one of that name`);
  }
}

/** The first of `names` that no volume of the pool has. The pool is locked, so it stays free. */
export async function findFreeVolumeName(
  tx: Transaction,
  poolId: string,
  names: string[],
): Promise<string | undefined> {
  const taken = await tx.select({ name: volumes.name }).from(volumes)
    .where(and(eq(volumes.poolId, poolId), inArray(volumes.name, names), isNull(volumes.deletedAt)));
  return names.find((name) => !taken.some((row) => row.name === name));
}

/** @throws {StorageError} `volume-not-found`, `ambiguous-name`. */
export async function getVolume(connection: Connection, reference: string, poolId?: string): Promise<Volume> {
  const rows = await selectVolumes(connection).where(and(
    isId(reference) ? eq(volumes.volumeId, reference) : eq(volumes.name, reference),
    poolId === undefined ? undefined : eq(volumes.poolId, poolId),
    isNull(volumes.deletedAt),
  )).limit(2);
  return toVolume(requireOne(rows, "volume-not-found", reference));
}

/** The volumes that `references` name, in their order, by one look. @throws {StorageError} as {@linkcode getVolume}. */
export async function getVolumes(
  connection: Connection,
  references: string[],
  poolId?: string,
): Promise<Volume[]> {
  const ids = references.filter(isId);
  const names = references.filter((reference) => !isId(reference));
  const rows = await selectVolumes(connection).where(and(
    or(inArray(volumes.volumeId, ids), inArray(volumes.name, names)),
    poolId === undefined ? undefined : eq(volumes.poolId, poolId),
    isNull(volumes.deletedAt),
  ));
  const byReference = Map.groupBy(rows, ({ volume }) => volume.name);
  for (const row of rows) byReference.set(row.volume.volumeId, [row]);
  return references.map((reference) => {
    const key = isId(reference) ? reference.toLowerCase() : reference;
    return toVolume(requireOne(byReference.get(key) ?? [], "volume-not-found", reference));
  });
}

/** Where a volume lives, also one that is deleted if it is named by id: for what is told of it. */
export async function findVolumePlace(
  connection: Connection,
  reference: string,
  poolId?: string,
): Promise<{ volumeId: string; poolId: string }> {
  if (!isId(reference)) {
    const { volumeId, pool } = await getVolume(connection, reference, poolId);
    return { volumeId, poolId: pool.poolId };
  }
  const rows = await connection.select({ volumeId: volumes.volumeId, poolId: volumes.poolId }).from(volumes)
    .where(
      and(eq(volumes.volumeId, reference), poolId === undefined ? undefined : eq(volumes.poolId, poolId)),
    );
  return requireOne(rows, "volume-not-found", reference);
}

/**
 * The volumes, of one pool or of all, that carry all of the labels, in order of creation.
 *
 * @param within the ids of all that may be told of; by default, any.
 */
export async function listVolumes(
  database: Database,
  poolId: string | undefined,
  wanted: LabelSelector[],
  page: PageRequest,
  within?: string[],
): Promise<Page<Volume>> {
  const rows = await selectVolumes(database).where(and(
    isNull(volumes.deletedAt),
    poolId === undefined ? undefined : eq(volumes.poolId, poolId),
    page.after === undefined ? undefined : gt(volumes.volumeId, page.after),
    within === undefined ? undefined : inArray(volumes.volumeId, within),
    await carriesLabels(database, volumes.volumeId, { kind: "volume", poolId, wanted }, page),
  )).orderBy(asc(volumes.volumeId)).limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.volume.volumeId, toVolume);
}

/**
 * Changes a volume's size, its labels, how many snapshots it may have, or several at once. It can only grow, and the new blocks
 * read as zeros. Snapshots that it has stay, also where they are more than it may have.
 *
 * @throws {StorageError} `invalid-argument` for less blocks than it has, or for labels that are none; `volume-not-found`.
 */
export async function changeVolume(
  database: Database,
  actor: Actor,
  volume: Volume,
  change: VolumeChange,
  limits: StorageLimits,
  at: Date,
): Promise<Volume> {
  const { pool: { poolId }, volumeId } = volume;
  const { blockCount, labels, snapshotsMax } = change;
  return await transact(database, async (tx) => {
    if (blockCount !== undefined) await lockPool(tx, poolId);
    await lockVolume(tx, poolId, volumeId);
    const found = await getVolume(tx, volumeId, poolId);
    const grown = blockCount === undefined ? found : await grow(tx, found, blockCount);
    const patched = labels === undefined
      ? undefined
      : await patchLabels(tx, poolId, { kind: "volume", targetId: volumeId }, labels, limits);
    const changed = {
      ...(snapshotsMax === undefined ? grown : await limitSnapshots(tx, grown, snapshotsMax)),
      labels: patched ?? grown.labels,
    };
    if (blockCount !== undefined) await appendAudit(tx, actor, toVolumeAudit(changed, "volume.resize", at));
    if (patched !== undefined) await appendAudit(tx, actor, toVolumeAudit(changed, "volume.label", at));
    if (snapshotsMax !== undefined) await appendAudit(tx, actor, toVolumeAudit(changed, "volume.limit", at));
    if (blockCount !== undefined) await appendEvent(tx, poolId, toVolumeEvent(changed, "volume.resized", at));
    if (patched !== undefined) await appendEvent(tx, poolId, toLabelledEvent(changed, at));
    if (snapshotsMax !== undefined) await appendEvent(tx, poolId, toLimitedEvent(changed, at));
    return changed;
  });
}

async function grow(tx: Transaction, volume: Volume, blockCount: number): Promise<Volume> {
  requireBlockCount(blockCount);
  const { pool: { poolId }, volumeId, name } = volume;
  if (blockCount < volume.blockCount) {
    throw new StorageError(
      "invalid-argument",
      `Cannot resize volume ${name} to ${blockCount} blocks: it has ${volume.blockCount} and can only grow`,
    );
  }
  await tx.update(volumes).set({ blockCount })
    .where(and(eq(volumes.poolId, poolId), eq(volumes.volumeId, volumeId)));
  await advancePool(tx, poolId, { mapVersions: 1 });
  return { ...volume, blockCount };
}

async function limitSnapshots(tx: Transaction, volume: Volume, most: number | null): Promise<Volume> {
  const { pool: { poolId }, volumeId } = volume;
  await tx.update(volumes).set({ snapshotsMax: most })
    .where(and(eq(volumes.poolId, poolId), eq(volumes.volumeId, volumeId)));
  const { snapshotsMax: _, ...unlimited } = volume;
  return most === null ? unlimited : { ...unlimited, snapshotsMax: most };
}

/** Deletes a volume; snapshots of it stay. @throws {StorageError} `volume-not-found`. */
export async function deleteVolume(
  database: Database,
  actor: Actor,
  volume: Volume,
  at: Date,
): Promise<void> {
  const { pool: { poolId }, volumeId } = volume;
  await transact(database, async (tx) => {
    await lockPool(tx, poolId);
    const { record, event } = await deleteVolumeWithin(tx, poolId, volumeId, at);
    await appendAudit(tx, actor, record);
    await appendEvent(tx, poolId, event);
  });
}

/** What is told of a deletion. */
export interface ToldDeletion {
  readonly record: NewAuditRecord;
  readonly event: NewEvent;
}

/** The same as a part of `tx`, which has locked the pool. Answers what the caller is to tell of it, last. */
export async function deleteVolumeWithin(
  tx: Transaction,
  poolId: string,
  volumeId: string,
  at: Date,
): Promise<ToldDeletion> {
  const current = await getVolume(tx, volumeId, poolId);
  await tx.update(volumes).set({ deletedAt: at })
    .where(and(eq(volumes.poolId, poolId), eq(volumes.volumeId, volumeId)));
  await deleteLabels(tx, poolId, volumeId);
  await advancePool(tx, poolId, { mapVersions: 1 });
  await appendReclaims(tx, poolId, [{ timelineId: current.timelineId, epoch: EPOCH_LIVE }], at);
  return {
    record: toVolumeAudit(current, "volume.delete", at),
    event: toVolumeEvent(current, "volume.deleted", at),
  };
}

function toVolume(
  { volume, ...rest }: {
    volume: typeof volumes.$inferSelect;
    pool: Pool;
    labels: Labels;
    mappedSegments: number;
  },
): Volume {
  const { volumeId, name, blockCount, timelineId, createdAt, snapshotsMax } = volume;
  return {
    volumeId,
    name,
    blockCount,
    timelineId,
    createdAt,
    ...(snapshotsMax === null ? {} : { snapshotsMax }),
    ...rest,
  };
}

/** The audit record of what was done to a volume. */
export function toVolumeAudit({ pool, volumeId, name }: Volume, action: AuditAction, at: Date) {
  return { poolId: pool.poolId, at, action, targetId: volumeId, targetName: name };
}

/** The event of what was done to a volume. */
export function toVolumeEvent({ volumeId, name, blockCount }: Volume, type: EventType, at: Date) {
  return { type, at, volumeId, body: { name, blockCount } };
}

function toLabelledEvent({ volumeId, name, labels }: Volume, at: Date) {
  return { type: "volume.labelled" as const, at, volumeId, body: { name, labels } };
}

function toLimitedEvent({ volumeId, name, snapshotsMax }: Volume, at: Date) {
  return {
    type: "volume.limited" as const,
    at,
    volumeId,
    body: { name, snapshotsMax: snapshotsMax ?? null },
  };
}
