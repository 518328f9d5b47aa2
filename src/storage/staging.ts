/**
 * Staged contents: what is to become of a volume, gathered on a timeline of its own while the volume goes on.
 *
 *     begun ──(written by ordinary appends)──► the volume's contents
 *       └────(refused, given up, overdue)────► dropped, and its space reclaimed
 *
 * - *All or nothing*: nobody reads them before the volume is switched to their timeline, which is one transaction.
 * - *Nothing is lost*: they take the place of the volume as it was at one moment, and only if nothing was written behind that.
 *   That moment is the end of an epoch: a base snapshot's, from which the staged timeline then starts, or that of the open
 *   epoch, which is closed for it like by a marker; the staged timeline starts empty then. What is written behind it
 *   maps a segment to a later epoch, so whether there is any is a look into the index.
 * - *Nothing stays*: who stages holds a lease, and puts it off while data come. When it is over, the contents are dropped by whoever
 *   sees it. Without a lease they belong to something that lasts, and go with that.
 *
 * Their rows stand in a table of their own and not among the volumes, so no list, no snapshot of a pool and no event finds them.
 */

import { and, count, eq, isNotNull, lte } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { stagings } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import { requireBlockCount } from "./block.ts";
import { requireWhole } from "./covered.ts";
import { createId } from "./identifier.ts";
import { advancePool, lockPool, type Pool, type PoolHead } from "./pool.ts";
import { findPartsSince, isWritten } from "./ranges.ts";
import { appendReclaims } from "./reclaim_task.ts";
import { listCovered, requireReadable } from "./snapshot.ts";
import { closeEpochs, createTimeline, EPOCH_LIVE, readOpenEpoch, type TimelinePoint } from "./timeline.ts";
import { getVolume, switchTimeline, type Volume } from "./volume.ts";

/** Staged contents, and what they are to take the place of. */
export interface Staging {
  readonly stagingId: string;
  readonly volumeId: string;
  readonly timelineId: number;
  /** How far they may be written. */
  readonly blockCount: number;
  readonly volumeTimelineId: number;
  readonly volumeBlocks: number;
  /** The moment behind which nothing may be written to the volume. */
  readonly since: TimelinePoint;
  /** Where their segments come from, if that was chosen. */
  readonly deviceId?: string;
}

/** What is to be staged. */
export interface NewStaging {
  /** The snapshot that they start from; without it, from zeros. */
  readonly baseId?: string;
  /** How many blocks the volume is to have. */
  readonly blockCount: number;
  /** When it is given up. */
  readonly keptUntil?: Date;
  /** Where the segments are to come from; by default, from any device of the pool. */
  readonly deviceId?: string;
}

/** Staged contents of one pool at a time: each holds space that nobody reads yet. */
const STAGINGS_MAX = 64;
/** How many that are overdue are dropped by one sweep. */
const OVERDUE_MAX = 16;

// Statements

async function insertStaging(
  tx: Transaction,
  poolId: string,
  { since, ...staging }: Staging,
  keptUntil: Date | undefined,
): Promise<void> {
  await tx.insert(stagings).values({
    poolId,
    ...staging,
    sinceTimelineId: since.timelineId,
    sinceEpoch: since.epoch,
    keptUntil: keptUntil ?? null,
  });
}

/** Removes the row, and answers what it was; nothing when it is gone, or when it is not overdue and has to be. */
async function takeStaging(
  tx: Transaction,
  poolId: string,
  stagingId: string,
  overdueAt?: Date,
): Promise<Staging | undefined> {
  const [row] = await tx.delete(stagings).where(and(
    eq(stagings.poolId, poolId),
    eq(stagings.stagingId, stagingId),
    overdueAt === undefined ? undefined : lte(stagings.keptUntil, overdueAt),
  )).returning();
  return row === undefined ? undefined : toStaging(row);
}

async function countStagings(tx: Transaction, poolId: string): Promise<number> {
  const [{ stagingCount }] = await tx.select({ stagingCount: count() }).from(stagings)
    .where(eq(stagings.poolId, poolId));
  return stagingCount;
}

// Verbs

/**
 * Begins to stage contents for `volume`. The pool is locked for a few short statements.
 *
 * @throws {StorageError} `volume-not-found`, `invalid-argument` for a size; of a base `snapshot-not-found`, `outside-snapshot`,
 *   `unrelated-snapshots`, and `volume-changed` when the volume was written since; `too-busy` when too many are staged.
 */
export async function beginStaging(
  database: Database,
  { pool: { poolId }, volumeId }: Volume,
  input: NewStaging,
): Promise<Staging> {
  return await transact(
    database,
    async (tx) => await beginStagingWithin(tx, await lockPool(tx, poolId), poolId, volumeId, input),
  );
}

/** The same as a part of `tx`, which has locked the pool. */
export async function beginStagingWithin(
  tx: Transaction,
  head: PoolHead,
  poolId: string,
  volumeId: string,
  { baseId, blockCount, keptUntil, deviceId }: NewStaging,
): Promise<Staging> {
  requireBlockCount(blockCount);
  if (await countStagings(tx, poolId) >= STAGINGS_MAX) {
    throw new StorageError("too-busy", "Cannot stage more contents now: too many are under way in the pool");
  }
  const current = await getVolume(tx, volumeId, poolId);
  const since = baseId === undefined
    ? await closeOpenEpoch(tx, poolId, current.timelineId)
    : await findUnchangedBase(tx, current, baseId);
  const staging = {
    stagingId: createId(),
    volumeId,
    timelineId: await createTimeline(tx, poolId, head, volumeId, baseId === undefined ? undefined : since),
    blockCount: Math.max(blockCount, current.blockCount),
    volumeTimelineId: current.timelineId,
    volumeBlocks: current.blockCount,
    since,
    ...(deviceId === undefined ? {} : { deviceId }),
  };
  await insertStaging(tx, poolId, staging, keptUntil);
  return staging;
}

async function closeOpenEpoch(tx: Transaction, poolId: string, timelineId: number): Promise<TimelinePoint> {
  const epoch = await readOpenEpoch(tx, poolId, timelineId);
  await closeEpochs(tx, poolId, [timelineId]);
  await advancePool(tx, poolId, { mapVersions: 1 });
  return { timelineId, epoch };
}

async function findUnchangedBase(tx: Transaction, current: Volume, baseId: string): Promise<TimelinePoint> {
  const { pool: { poolId }, timelineId, blockCount } = current;
  await requireReadable(tx, poolId, baseId);
  const volumes = await listCovered(tx, poolId, baseId);
  const live = { timelineId, epoch: EPOCH_LIVE };
  const { base, parts } = await findPartsSince(tx, poolId, live, volumes);
  requireWhole(base);
  if (base.volumeBlocks !== blockCount || await isWritten(tx, poolId, parts)) throw hasChanged(current);
  return { timelineId: base.timelineId, epoch: base.epoch };
}

/** @throws {StorageError} `timed-out` when they were given up. */
export async function getStaging(
  connection: Connection,
  poolId: string,
  stagingId: string,
): Promise<Staging> {
  const [row] = await connection.select().from(stagings)
    .where(and(eq(stagings.poolId, poolId), eq(stagings.stagingId, stagingId))).limit(1);
  if (row === undefined) throw isGivenUp();
  return toStaging(row);
}

/** Puts off when the contents are dropped. Answers false when they are gone. */
export async function keepStaging(
  database: Database,
  poolId: string,
  stagingId: string,
  until: Date,
): Promise<boolean> {
  const kept = await database.update(stagings).set({ keptUntil: until })
    .where(and(eq(stagings.poolId, poolId), eq(stagings.stagingId, stagingId)))
    .returning({ stagingId: stagings.stagingId });
  return kept.length > 0;
}

/**
 * Gives a volume its staged contents and `blockCount` blocks. What it had is reclaimed where no snapshot has it. The pool is
 * locked; the caller writes audit, marker and event.
 *
 * @throws {StorageError} `volume-changed` when it was written, reverted or resized meanwhile; `volume-not-found`; `timed-out` when
 *   the contents were given up.
 */
export async function switchToStaging(
  tx: Transaction,
  { poolId }: Pool,
  stagingId: string,
  blockCount: number,
  at: Date,
): Promise<Volume> {
  const staging = await takeStaging(tx, poolId, stagingId);
  if (staging === undefined) throw isGivenUp();
  const current = await getVolume(tx, staging.volumeId, poolId);
  await requireUnchanged(tx, current, staging);
  const volume = { ...current, timelineId: staging.timelineId, blockCount };
  await switchTimeline(tx, volume);
  await appendReclaims(tx, poolId, [{ timelineId: current.timelineId, epoch: EPOCH_LIVE }], at);
  return volume;
}

async function requireUnchanged(tx: Transaction, current: Volume, staging: Staging): Promise<void> {
  const { pool: { poolId }, timelineId, blockCount } = current;
  if (timelineId !== staging.volumeTimelineId || blockCount !== staging.volumeBlocks) {
    throw hasChanged(current);
  }
  const live = { timelineId, epoch: EPOCH_LIVE };
  const { parts } = await findPartsSince(tx, poolId, live, [staging.since]);
  if (await isWritten(tx, poolId, parts)) throw hasChanged(current);
}

/** Drops staged contents, so that their space comes back. Nothing happens when they are gone. */
export async function dropStaging(
  database: Database,
  poolId: string,
  stagingId: string,
  at: Date,
  overdueAt?: Date,
): Promise<boolean> {
  return await transact(database, async (tx) => {
    await lockPool(tx, poolId);
    return await dropStagingWithin(tx, poolId, stagingId, at, overdueAt);
  });
}

/** The same as a part of `tx`, which has locked the pool. */
export async function dropStagingWithin(
  tx: Transaction,
  poolId: string,
  stagingId: string,
  at: Date,
  overdueAt?: Date,
): Promise<boolean> {
  const staging = await takeStaging(tx, poolId, stagingId, overdueAt);
  if (staging === undefined) return false;
  // Appends remember it.
  await advancePool(tx, poolId, { mapVersions: 1 });
  const own = { timelineId: staging.timelineId, epoch: EPOCH_LIVE };
  await appendReclaims(tx, poolId, [own, staging.since], at);
  return true;
}

/** Drops what nobody has put off. Answers whether there was any. */
export async function dropOverdueStagings(database: Database, at: Date): Promise<boolean> {
  const overdue = await database.select({ poolId: stagings.poolId, stagingId: stagings.stagingId })
    .from(stagings).where(and(isNotNull(stagings.keptUntil), lte(stagings.keptUntil, at))).limit(OVERDUE_MAX);
  for (const { poolId, stagingId } of overdue) await dropStaging(database, poolId, stagingId, at, at);
  return overdue.length > 0;
}

/** What is answered to who goes on with contents that are dropped. */
export function isGivenUp(): StorageError {
  return new StorageError("timed-out", "Cannot go on: it took too long without progress, and was given up");
}

function hasChanged({ name }: Volume): StorageError {
  return new StorageError(
    "volume-changed",
    `Cannot replace the contents of volume ${name}: it was written, reverted or resized since they were based on it`,
  );
}

function toStaging(row: typeof stagings.$inferSelect): Staging {
  const { poolId: _, keptUntil: __, sinceTimelineId, sinceEpoch, deviceId, ...rest } = row;
  const since = { timelineId: sinceTimelineId, epoch: sinceEpoch };
  return { ...rest, since, ...(deviceId === null ? {} : { deviceId }) };
}
