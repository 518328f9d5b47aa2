/**
 * Copies: a volume as a snapshot has it, on its way into another pool, as a job whose row says how far it is.
 *
 *     running ──► done │ failed │ cancelled
 *
 * While it runs it goes through phases, each from the first block to the last ({@linkcode stepCopy} does one step of one):
 *
 *     beginning   what is copied, all or the difference to the last copy, is decided, and staging begins
 *     counting    how many bytes that is
 *     copying     they are written to the staged contents
 *     digesting   the source is read as a whole
 *     verifying   so is what was staged; the digests must be equal
 *     switching   the mirror gets the contents, and a snapshot of them is taken
 *     telling     the job is done
 *
 * Invariants:
 * - *Resumed anywhere*: whatever a step did before it was killed, the next worker does again with the same outcome, for the source
 *   never changes. A step's end is one update of the row, which fails for who has lost the job meanwhile.
 * - *One worker*: a job is leased to one, which puts the lease off with each step.
 * - *Nothing stays*: staged contents are begun, switched to and dropped in the transaction that says so in the row; so is a mirror
 *   that holds nothing when a copy into it comes to nothing.
 * - *The source stays*: a snapshot cannot be deleted while it is copied, nor the one that it is compared with.
 *
 * Locks, in this order: the pool, the snapshot, the job, the mirror, and as the last ones the pools' audits and then their events,
 * by the pools' ids. No transaction locks both pools, so copies in opposite directions cannot wait for each other.
 */

import { and, asc, count, desc, eq, gt, inArray, isNull, lte, ne, or, type SQL } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { copies, snapshots } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit, appendAudits, type NewAuditRecord } from "./audit.ts";
import { emptyChain } from "./contents_digest.ts";
import { appendEvent, appendEvents, type EventType } from "./event.ts";
import { createId, isId } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import { dropEmptyMirror, lockMirror } from "./mirror.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import { lockPool } from "./pool.ts";
import type { Snapshot } from "./snapshot.ts";
import { dropStagingWithin } from "./staging.ts";

export type CopyStatus = "running" | "done" | "failed" | "cancelled";

/** What is being done of a copy that runs, in this order. */
export const COPY_PHASES = [
  "beginning",
  "counting",
  "copying",
  "digesting",
  "verifying",
  "switching",
  "telling",
] as const;
export type CopyPhase = typeof COPY_PHASES[number];

/** A copy as it stands. `poolId`, `snapshotId` and `volumeId` are the source's. */
export interface Copy {
  readonly poolId: string;
  readonly copyId: string;
  readonly snapshotId: string;
  readonly volumeId: string;
  readonly targetPoolId: string;
  readonly targetVolumeId: string;
  /** Where the copy's segments come from, if that was chosen. */
  readonly deviceId?: string;
  readonly status: CopyStatus;
  readonly phase: CopyPhase;
  /** Up to which block the phase has come. */
  readonly position: number;
  /** The snapshot that it is compared with; none for a copy of everything. */
  readonly baseId?: string;
  readonly stagingId?: string;
  readonly bytesCopied: number;
  /** Known when it is counted. */
  readonly bytesTotal: number;
  readonly sourceChain: Uint8Array;
  readonly targetChain: Uint8Array;
  /** Of both sides, once they were found equal. */
  readonly digest?: string;
  /** The copy, once it is there. */
  readonly targetSnapshotId?: string;
  readonly failure?: CopyFailure;
  /** Whose copy it is. */
  readonly actor: Actor;
  readonly toldAt: Date;
  readonly createdAt: Date;
  readonly endedAt?: Date;
}

/** Why a copy failed. */
export interface CopyFailure {
  readonly code: string;
  readonly detail: string;
}

/** What is to be copied where. */
export interface NewCopy {
  readonly snapshot: Snapshot;
  readonly volumeId: string;
  readonly targetPoolId: string;
  readonly targetVolumeId: string;
  readonly deviceId?: string;
}

/** How a step changes the row. */
export type CopyMove = Partial<
  & Pick<
    typeof copies.$inferInsert,
    "phase" | "position" | "baseId" | "stagingId" | "bytesCopied" | "bytesTotal"
  >
  & Pick<typeof copies.$inferInsert, "sourceChain" | "targetChain" | "digest" | "targetSnapshotId">
>;

/** The job is no longer this worker's: cancelled, or taken by another. */
export class CopyLostError extends Error {}

/** Jobs that a worker takes at once; the others are left to others. */
const CLAIMED_MAX = 8;
/** Leases that the clocks of two workers may be apart. */
const LEASES_MAX = 2;

// Statements

/** Locks a snapshot so that it is not deleted before the transaction ends. Answers whether there is one to read. */
export async function lockReadableSnapshot(
  tx: Transaction,
  poolId: string,
  snapshotId: string,
): Promise<boolean> {
  const rows = await tx.select({ snapshotId: snapshots.snapshotId }).from(snapshots).where(and(
    eq(snapshots.poolId, poolId),
    eq(snapshots.snapshotId, snapshotId),
    inArray(snapshots.status, ["pending", "sealed"]),
  )).for("update");
  return rows.length > 0;
}

async function countRunning(tx: Transaction, poolId: string, which?: SQL): Promise<number> {
  const [{ running }] = await tx.select({ running: count() }).from(copies)
    .where(and(eq(copies.poolId, poolId), eq(copies.status, "running"), which));
  return running;
}

/** The last copy that a mirror was given: there is one at a time, so they end in the order in which they began. */
export async function findLastCopy(
  connection: Connection,
  { poolId, volumeId, targetPoolId, targetVolumeId }: Copy,
): Promise<Copy | undefined> {
  const [row] = await connection.select().from(copies).where(and(
    eq(copies.targetPoolId, targetPoolId),
    eq(copies.targetVolumeId, targetVolumeId),
    eq(copies.status, "done"),
    eq(copies.poolId, poolId),
    eq(copies.volumeId, volumeId),
  )).orderBy(desc(copies.copyId)).limit(1);
  return row === undefined ? undefined : toCopy(row);
}

function isWorkers({ poolId, copyId }: Copy, workerId: string) {
  return and(
    eq(copies.poolId, poolId),
    eq(copies.copyId, copyId),
    eq(copies.status, "running"),
    eq(copies.workerId, workerId),
  );
}

// Verbs of clients

/**
 * Asks for a copy. Answers when that is committed.
 *
 * @throws {StorageError} `snapshot-not-found`; `too-busy` when too many are under way; `in-use` when one into that volume is, or
 *   it is gone.
 */
export async function createCopy(
  database: Database,
  actor: Actor,
  { snapshot, volumeId, targetPoolId, targetVolumeId, deviceId }: NewCopy,
  limits: StorageLimits,
  at: Date,
): Promise<Copy> {
  const { pool: { poolId }, snapshotId, name } = snapshot;
  const { clientId, clientName, priority, origin } = actor;
  const row = {
    poolId,
    copyId: createId(),
    snapshotId,
    volumeId,
    targetPoolId,
    targetVolumeId,
    deviceId: deviceId ?? null,
    status: "running" as const,
    phase: "beginning",
    sourceChain: emptyChain(),
    targetChain: emptyChain(),
    ...{ clientId, clientName, priority, origin },
    toldAt: at,
    createdAt: at,
  };
  return await transact(database, async (tx) => {
    await lockPool(tx, poolId);
    await requireRoom(tx, poolId, targetVolumeId, limits);
    if (!await lockReadableSnapshot(tx, poolId, snapshotId)) {
      throw new StorageError(
        "snapshot-not-found",
        `Cannot copy snapshot ${snapshotId}: it is deleted or cancelled`,
      );
    }
    if (!await lockMirror(tx, targetPoolId, targetVolumeId)) {
      throw new StorageError("in-use", "Cannot copy into this volume: it was deleted just now; ask again");
    }
    const [inserted] = await tx.insert(copies).values(row).returning();
    const copy = toCopy(inserted);
    const target = { targetId: copy.copyId, ...(name === undefined ? {} : { targetName: name }) };
    await appendAudit(tx, actor, { poolId, at, action: "copy.create", ...target });
    await appendCopyEvent(tx, copy, { type: "copy.created", at, body: { targetPoolId, targetVolumeId } });
    return copy;
  });
}

async function requireRoom(
  tx: Transaction,
  poolId: string,
  targetVolumeId: string,
  { copiesMax }: StorageLimits,
): Promise<void> {
  if (await countRunning(tx, poolId, eq(copies.targetVolumeId, targetVolumeId)) > 0) {
    throw new StorageError("in-use", "Cannot copy into this volume: another copy into it is under way");
  }
  if (await countRunning(tx, poolId) < copiesMax) return;
  throw new StorageError("too-busy", `Cannot copy more now: ${copiesMax} copies are under way`);
}

/** @throws {StorageError} `copy-not-found`. */
export async function getCopy(connection: Connection, copyId: string): Promise<Copy> {
  const [row] = isId(copyId)
    ? await connection.select().from(copies).where(eq(copies.copyId, copyId)).limit(1)
    : [];
  if (row === undefined) {
    throw new StorageError("copy-not-found", `Cannot find copy ${copyId.slice(0, 64)}`);
  }
  return toCopy(row);
}

/** The copies of a snapshot, oldest first. */
export async function listCopies(
  database: Database,
  poolId: string,
  snapshotId: string,
  page: PageRequest,
): Promise<Page<Copy>> {
  const rows = await database.select().from(copies).where(and(
    eq(copies.poolId, poolId),
    eq(copies.snapshotId, snapshotId),
    page.after === undefined ? undefined : gt(copies.copyId, page.after),
  )).orderBy(asc(copies.copyId)).limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.copyId, toCopy);
}

/** Cancels a copy and gives its space back. One that has ended, or is about to be done, stays as it is. */
export async function cancelCopy(database: Database, actor: Actor, copy: Copy, at: Date): Promise<void> {
  const { poolId, copyId, targetPoolId } = copy;
  await transact(database, async (tx) => {
    await lockPool(tx, targetPoolId);
    const [row] = await tx.update(copies).set({ status: "cancelled", endedAt: at }).where(and(
      eq(copies.poolId, poolId),
      eq(copies.copyId, copyId),
      eq(copies.status, "running"),
      ne(copies.phase, "telling"),
    )).returning();
    if (row === undefined) return;
    const record = { poolId, at, action: "copy.cancel" as const, targetId: copyId };
    await giveUp(tx, actor, toCopy(row), { type: "copy.cancelled", at, body: {} }, [record]);
  });
}

/** @throws {StorageError} `in-use` while a copy reads the snapshot. The snapshot is locked. */
export async function requireNotCopied(tx: Transaction, poolId: string, snapshotId: string): Promise<void> {
  const reads = or(eq(copies.snapshotId, snapshotId), eq(copies.baseId, snapshotId));
  if (await countRunning(tx, poolId, reads) === 0) return;
  throw new StorageError(
    "in-use",
    `Cannot delete snapshot ${snapshotId}: a copy of it, or the difference to it, is under way; cancel that first`,
  );
}

// Verbs of workers

/**
 * Takes copies that nobody is at, or puts off the lease of those that this worker has. A lease that ends later than any could is from
 * before the clock was set back: nobody may be at it, and whoever is finds that it lost it.
 */
export async function claimCopies(
  database: Database,
  workerId: string,
  at: Date,
  leaseMs: number,
): Promise<Copy[]> {
  const until = new Date(at.getTime() + leaseMs);
  const beyond = new Date(at.getTime() + LEASES_MAX * leaseMs);
  const isFree = and(
    eq(copies.status, "running"),
    or(
      isNull(copies.leasedUntil),
      lte(copies.leasedUntil, at),
      gt(copies.leasedUntil, beyond),
      eq(copies.workerId, workerId),
    ),
  );
  const chosen = database.select({ copyId: copies.copyId }).from(copies).where(isFree)
    .orderBy(asc(copies.copyId)).limit(CLAIMED_MAX);
  const rows = await database.update(copies).set({ workerId, leasedUntil: until })
    .where(and(isFree, inArray(copies.copyId, chosen))).returning();
  return rows.map(toCopy);
}

/** Leaves the worker's copies to others. */
export async function releaseCopies(database: Database, workerId: string): Promise<void> {
  await database.update(copies).set({ workerId: null, leasedUntil: null })
    .where(and(eq(copies.status, "running"), eq(copies.workerId, workerId)));
}

/** Ends a step. Tells of it when that was not done for `progressMs`. @throws {CopyLostError}. */
export async function moveCopy(
  database: Database,
  copy: Copy,
  workerId: string,
  move: CopyMove,
  { at, progressMs }: { at: Date; progressMs: number },
): Promise<void> {
  await transact(database, async (tx) => {
    // In either direction: the clock may have been set back.
    const isDue = Math.abs(at.getTime() - copy.toldAt.getTime()) >= progressMs;
    const moved = await moveCopyWithin(tx, copy, workerId, { ...move, ...(isDue ? { toldAt: at } : {}) });
    if (!isDue) return;
    const { phase, bytesCopied, bytesTotal } = moved;
    await appendCopyEvent(tx, moved, { type: "copy.progress", at, body: { phase, bytesCopied, bytesTotal } });
  });
}

/** The same as a part of `tx`, without telling of it. @throws {CopyLostError}. */
export async function moveCopyWithin(
  tx: Transaction,
  copy: Copy,
  workerId: string,
  move: CopyMove & { toldAt?: Date },
): Promise<Copy> {
  const [row] = await tx.update(copies).set(move).where(isWorkers(copy, workerId)).returning();
  if (row === undefined) throw new CopyLostError();
  return toCopy(row);
}

/** Ends a copy that is complete. @throws {CopyLostError}. */
export async function finishCopy(database: Database, copy: Copy, workerId: string, at: Date): Promise<void> {
  await transact(database, async (tx) => {
    const [row] = await tx.update(copies).set({ status: "done", endedAt: at })
      .where(isWorkers(copy, workerId)).returning();
    if (row === undefined) throw new CopyLostError();
    const { targetSnapshotId, bytesCopied, digest } = toCopy(row);
    await appendCopyEvent(tx, copy, {
      type: "copy.done",
      at,
      body: { targetSnapshotId, bytesCopied, digest },
    });
  });
}

/** Ends a copy that cannot go on, and gives its space back. @throws {CopyLostError}. */
export async function failCopy(
  database: Database,
  copy: Copy,
  workerId: string,
  { code, detail }: CopyFailure,
  at: Date,
): Promise<void> {
  await transact(database, async (tx) => {
    await lockPool(tx, copy.targetPoolId);
    const [row] = await tx.update(copies)
      .set({ status: "failed", endedAt: at, failureCode: code, failureDetail: detail })
      .where(isWorkers(copy, workerId)).returning();
    if (row === undefined) throw new CopyLostError();
    await giveUp(tx, copy.actor, toCopy(row), { type: "copy.failed", at, body: { code, detail } });
  });
}

/** Gives back what a copy has taken that came to nothing, and tells of it. The other pool is locked. */
async function giveUp(
  tx: Transaction,
  actor: Actor,
  copy: Copy,
  end: CopyEvent,
  records: NewAuditRecord[] = [],
): Promise<void> {
  const { poolId, targetPoolId, targetVolumeId, stagingId } = copy;
  const { at } = end;
  if (stagingId !== undefined) await dropStagingWithin(tx, targetPoolId, stagingId, at);
  const deleted = await dropEmptyMirror(tx, targetPoolId, targetVolumeId, at);
  await appendAudits(tx, actor, deleted === undefined ? records : [...records, deleted.record]);
  await appendEvents(tx, [
    { poolId, ...toCopyEvent(copy, end) },
    ...(deleted === undefined ? [] : [{ poolId: targetPoolId, ...deleted.event }]),
  ]);
}

interface CopyEvent {
  readonly type: EventType;
  readonly at: Date;
  readonly body: Record<string, unknown>;
}

/** Told in the source's pool. */
async function appendCopyEvent(tx: Transaction, copy: Copy, event: CopyEvent): Promise<void> {
  await appendEvent(tx, copy.poolId, toCopyEvent(copy, event));
}

function toCopyEvent({ copyId, snapshotId, volumeId }: Copy, { body, ...event }: CopyEvent) {
  return { ...event, snapshotId, volumeId, body: { copyId, ...body } };
}

function toCopy(row: typeof copies.$inferSelect): Copy {
  const { clientId, clientName, priority, origin } = row;
  return {
    poolId: row.poolId,
    copyId: row.copyId,
    snapshotId: row.snapshotId,
    volumeId: row.volumeId,
    targetPoolId: row.targetPoolId,
    targetVolumeId: row.targetVolumeId,
    ...(row.deviceId === null ? {} : { deviceId: row.deviceId }),
    status: row.status,
    phase: row.phase as CopyPhase,
    position: row.position,
    ...(row.baseId === null ? {} : { baseId: row.baseId }),
    ...(row.stagingId === null ? {} : { stagingId: row.stagingId }),
    bytesCopied: row.bytesCopied,
    bytesTotal: row.bytesTotal,
    sourceChain: row.sourceChain,
    targetChain: row.targetChain,
    ...(row.digest === null ? {} : { digest: row.digest }),
    ...(row.targetSnapshotId === null ? {} : { targetSnapshotId: row.targetSnapshotId }),
    ...(row.failureCode === null
      ? {}
      : { failure: { code: row.failureCode, detail: row.failureDetail ?? "" } }),
    actor: { clientId, clientName, priority, origin },
    toldAt: row.toldAt,
    createdAt: row.createdAt,
    ...(row.endedAt === null ? {} : { endedAt: row.endedAt }),
  };
}
