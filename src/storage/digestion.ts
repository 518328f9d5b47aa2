/**
 * Digestions: sealed snapshots that are read as a whole, as jobs whose rows say how far they are.
 *
 *     sealed, never looked at ──(the youngest of a pool, when nothing of it is being read)──┐
 *     asked to be verified ─────────────────────────────────────────────────────────────────┴─► digestion
 *     digestion ──(volume by volume, in the order of their ids)──► intact │ damaged
 *
 * What is found the first time is the digest. From then on what is found has to be that, or the snapshot is damaged; it is until it is
 * found intact again. A seal knows nothing of all this: who is sealed and was never looked at is found by an index. So nothing piles
 * up but the snapshots themselves. Where they come faster than they can be read, the youngest one is next whenever one is through,
 * and the others wait until it is calmer, or retention takes them; what has begun is not given up for a younger one, or none would
 * ever be through.
 *
 * Invariants:
 * - *Resumed anywhere*: whatever a step did before it was killed, the next worker does again with the same outcome, for a sealed
 *   snapshot never changes. A step's end is one transaction that fails for who has lost the job meanwhile.
 * - *One worker*: a job is leased to one, which puts the lease off with each step.
 * - *Told truthfully*: what was found is written in the transaction that tells of it.
 *
 * Locks, in this order: the snapshot, the job, the pool's audit or its events. The pool itself is not locked.
 */

import { and, asc, eq, gt, inArray, isNull, lte, or } from "drizzle-orm";
import { type Database, transact, type Transaction } from "../database/client.ts";
import { digestions } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { digestVolumes, emptyChain, isSameDigest } from "./contents_digest.ts";
import { appendEvent } from "./event.ts";
import type { SnapshotPlace } from "./snapshot.ts";

/** A snapshot as far as it was read. */
export interface Digestion {
  readonly poolId: string;
  readonly snapshotId: string;
  /** What is being read; absent when it covers no volume. */
  readonly volumeId?: string;
  /** Up to which block of it, and the chain there. */
  readonly position: number;
  readonly chain: Uint8Array;
}

/** What became of a volume that was read to its end, or as far as it could be. */
export type FoundVolume = { readonly digest: Uint8Array } | { readonly fault: string };

/** Why a volume, or the snapshot as a whole, is not what it should be. */
export interface SnapshotFault {
  readonly volumeId?: string;
  readonly detail: string;
}

/** The job is no longer this worker's: taken by another, or gone with its snapshot. */
export class DigestionLostError extends Error {}

/** Jobs that a worker takes at once, one step of each in turn; the others are left to others. */
const CLAIMED_MAX = 4;
/** Leases that the clocks of two workers may be apart. */
const LEASES_MAX = 2;
/** Faults that an event tells of. */
const TOLD_FAULTS_MAX = 16;

// Statements

/** Begins with the youngest sealed snapshot that nobody has looked at, of each pool of which nothing is being read. */
async function insertYoungest({ $client }: Database, at: Date): Promise<void> {
  await $client`
    insert into digestions (pool_id, snapshot_id, volume_id, created_at)
    select p.pool_id, s.snapshot_id, (
        select volume_id from snapshot_volumes v
        where v.pool_id = p.pool_id and v.snapshot_id = s.snapshot_id order by volume_id limit 1
      ), ${at.toISOString()}
    from pools p cross join lateral (
      select snapshot_id from snapshots
      where pool_id = p.pool_id and status = 'sealed' and checked_at is null
      order by marker_sequence desc limit 1
    ) s
    where not exists (select from digestions d where d.pool_id = p.pool_id)
    on conflict do nothing`;
}

async function insertAsked(tx: Transaction, { poolId, snapshotId }: SnapshotKey, at: Date): Promise<void> {
  await tx.$client`
    insert into digestions (pool_id, snapshot_id, volume_id, created_at)
    values (${poolId}, ${snapshotId}, (
        select volume_id from snapshot_volumes
        where pool_id = ${poolId} and snapshot_id = ${snapshotId} order by volume_id limit 1
      ), ${at.toISOString()})
    on conflict do nothing`;
}

type SnapshotKey = Pick<Digestion, "poolId" | "snapshotId">;

interface SnapshotRow {
  name: string | null;
  status: string;
  marker_sequence: number;
  digest: Uint8Array | null;
}

/** Locks a snapshot: a deletion waits, or it is gone. */
async function lockSnapshot(
  tx: Transaction,
  { poolId, snapshotId }: SnapshotKey,
): Promise<SnapshotRow | undefined> {
  const [row] = await tx.$client<SnapshotRow[]>`
    select name, status, marker_sequence, digest from snapshots
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} for update`;
  return row;
}

/** Goes on to the next volume; answers it. */
async function moveToNextVolume(
  tx: Transaction,
  { poolId, snapshotId, volumeId }: Digestion,
  workerId: string,
): Promise<string | null> {
  const [row] = await tx.$client<{ volume_id: string | null }[]>`
    update digestions set position = 0, chain = ${emptyChain()}, volume_id = (
      select volume_id from snapshot_volumes
      where pool_id = ${poolId} and snapshot_id = ${snapshotId} and volume_id > ${volumeId ?? null}
      order by volume_id limit 1
    )
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} and worker_id = ${workerId}
      and volume_id is not distinct from ${volumeId ?? null}
    returning volume_id`;
  if (row === undefined) throw new DigestionLostError();
  return row.volume_id;
}

interface VolumeRow {
  volume_id: string;
  digest: Uint8Array | null;
  fault: string | null;
}

async function selectVolumes(
  tx: Transaction,
  { poolId, snapshotId }: SnapshotKey,
  volumeId?: string,
): Promise<VolumeRow[]> {
  const chosen = volumeId === undefined ? tx.$client`` : tx.$client`and volume_id = ${volumeId}`;
  return await tx.$client<VolumeRow[]>`
    select volume_id, digest, fault from snapshot_volumes
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} ${chosen} order by volume_id`;
}

async function updateVolume(
  tx: Transaction,
  { poolId, snapshotId }: SnapshotKey,
  { volume_id: volumeId, digest, fault }: VolumeRow,
): Promise<void> {
  await tx.$client`
    update snapshot_volumes set digest = ${digest}, fault = ${fault}
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} and volume_id = ${volumeId}`;
}

async function updateSnapshot(
  tx: Transaction,
  { poolId, snapshotId }: SnapshotKey,
  { digest, intact }: { digest: Uint8Array | undefined; intact: boolean },
  at: Date,
): Promise<void> {
  await tx.$client`
    update snapshots set checked_at = ${at.toISOString()}, intact = ${intact}, digest = ${digest ?? null},
      digested_at = case when ${digest !== undefined} then coalesce(digested_at, ${at.toISOString()}) end
    where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
}

/** Ends a job; it is part of what deletes its snapshot too. */
export async function deleteDigestion(tx: Transaction, poolId: string, snapshotId: string): Promise<void> {
  await tx.$client`delete from digestions where pool_id = ${poolId} and snapshot_id = ${snapshotId}`;
}

/** What is counted of snapshots is counted up to here. */
export const DIGESTS_COUNTED_MAX = 10_000;

/** How the sealed snapshots of a pool stand, each figure up to a bound. */
export interface DigestFigures {
  readonly digested: number;
  readonly pending: number;
  readonly damaged: number;
}

/** Counts them. */
export async function countDigests({ $client }: Database, poolId: string): Promise<DigestFigures> {
  const [row] = await $client<[DigestFigures]>`
    select
      (select count(*) from (
        select from snapshots where pool_id = ${poolId} and digest is not null limit ${DIGESTS_COUNTED_MAX}
      ) s) as digested,
      (select count(*) from (
        select from snapshots where pool_id = ${poolId} and status = 'sealed' and checked_at is null
        limit ${DIGESTS_COUNTED_MAX}
      ) s) as pending,
      (select count(*) from (
        select from snapshots where pool_id = ${poolId} and not intact limit ${DIGESTS_COUNTED_MAX}
      ) s) as damaged`;
  return { ...row };
}

// Verbs of clients

/**
 * Asks for a sealed snapshot to be read and compared with its digest. One that is being read already is not read twice.
 *
 * @throws {StorageError} `snapshot-not-found`; `invalid-argument` when it is not sealed.
 */
export async function verifySnapshot(
  database: Database,
  actor: Actor,
  { pool: { poolId }, snapshotId }: SnapshotPlace,
  at: Date,
): Promise<void> {
  const key = { poolId, snapshotId };
  await transact(database, async (tx) => {
    const row = await lockSnapshot(tx, key);
    if (row === undefined) throw new StorageError("snapshot-not-found", `Cannot find snapshot ${snapshotId}`);
    if (row.status !== "sealed") {
      throw new StorageError(
        "invalid-argument",
        `Cannot verify snapshot ${snapshotId}: expected a sealed one, it is ${row.status}`,
      );
    }
    await insertAsked(tx, key, at);
    const target = { targetId: snapshotId, ...(row.name === null ? {} : { targetName: row.name }) };
    await appendAudit(tx, actor, { poolId, at, action: "snapshot.verify", ...target });
  });
}

// Verbs of workers

/**
 * Takes jobs that nobody is at, begun ones first and then new ones, or puts off the lease of those that this worker has. A lease that
 * ends later than any could is from before the clock was set back: nobody may be at it, and whoever is finds that it lost it.
 */
export async function claimDigestions(
  database: Database,
  workerId: string,
  at: Date,
  leaseMs: number,
): Promise<Digestion[]> {
  const until = new Date(at.getTime() + leaseMs);
  const beyond = new Date(at.getTime() + LEASES_MAX * leaseMs);
  await insertYoungest(database, at);
  const { poolId, snapshotId, leasedUntil } = digestions;
  const isFree = or(
    isNull(leasedUntil),
    lte(leasedUntil, at),
    gt(leasedUntil, beyond),
    eq(digestions.workerId, workerId),
  );
  const chosen = database.select({ snapshotId }).from(digestions).where(isFree)
    .orderBy(asc(digestions.createdAt), asc(poolId), asc(snapshotId)).limit(CLAIMED_MAX);
  const rows = await database.update(digestions).set({ workerId, leasedUntil: until })
    .where(and(isFree, inArray(snapshotId, chosen))).returning();
  return rows.map((row) => ({
    poolId: row.poolId,
    snapshotId: row.snapshotId,
    ...(row.volumeId === null ? {} : { volumeId: row.volumeId }),
    position: row.position,
    chain: row.chain,
  }));
}

/** Leaves the worker's jobs to others. */
export async function releaseDigestions(database: Database, workerId: string): Promise<void> {
  await database.update(digestions).set({ workerId: null, leasedUntil: null })
    .where(eq(digestions.workerId, workerId));
}

/** Ends a step inside a volume. @throws {DigestionLostError}. */
export async function moveDigestion(
  database: Database,
  { poolId, snapshotId, volumeId }: Digestion,
  workerId: string,
  move: { position: number; chain: Uint8Array },
): Promise<void> {
  const moved = await database.update(digestions).set(move).where(and(
    eq(digestions.poolId, poolId),
    eq(digestions.snapshotId, snapshotId),
    eq(digestions.workerId, workerId),
    volumeId === undefined ? isNull(digestions.volumeId) : eq(digestions.volumeId, volumeId),
  )).returning({ poolId: digestions.poolId });
  if (moved.length === 0) throw new DigestionLostError();
}

/** Drops a job whose snapshot is gone. */
export async function dropDigestion(database: Database, digestion: Digestion): Promise<void> {
  await transact(database, (tx) => deleteDigestion(tx, digestion.poolId, digestion.snapshotId));
}

/**
 * Ends a step at the end of a volume, and with the last one the job. Answers the faults of the snapshot when it is through.
 *
 * @throws {DigestionLostError}.
 */
export async function endVolume(
  database: Database,
  digestion: Digestion,
  workerId: string,
  found: FoundVolume | undefined,
  at: Date,
): Promise<SnapshotFault[] | undefined> {
  return await transact(database, async (tx) => {
    const snapshot = await lockSnapshot(tx, digestion);
    if (snapshot === undefined) {
      await deleteDigestion(tx, digestion.poolId, digestion.snapshotId);
      return undefined;
    }
    const next = await moveToNextVolume(tx, digestion, workerId);
    if (found !== undefined) {
      const [volume] = await selectVolumes(tx, digestion, digestion.volumeId);
      await updateVolume(tx, digestion, judge(volume, found));
    }
    return next === null ? await finish(tx, digestion, snapshot, at) : undefined;
  });
}

/** The volume's row, once this was found. */
function judge(volume: VolumeRow, found: FoundVolume): VolumeRow {
  if ("fault" in found) return { ...volume, fault: found.fault };
  const { digest } = found;
  if (volume.digest === null || isSameDigest(volume.digest, digest)) {
    return { ...volume, digest, fault: null };
  }
  return {
    ...volume,
    fault: `Cannot trust the blocks: expected digest ${volume.digest.toHex()}, found ${digest.toHex()}`,
  };
}

async function finish(
  tx: Transaction,
  { poolId, snapshotId }: Digestion,
  snapshot: SnapshotRow,
  at: Date,
): Promise<SnapshotFault[]> {
  const key = { poolId, snapshotId };
  const volumes = await selectVolumes(tx, key);
  const { digest, faults } = await sum(volumes, snapshot.digest ?? undefined);
  const intact = faults.length === 0;
  await updateSnapshot(tx, key, { digest, intact }, at);
  await deleteDigestion(tx, poolId, snapshotId);
  await appendEvent(tx, poolId, {
    type: "snapshot.verified",
    at,
    snapshotId,
    body: {
      sequence: snapshot.marker_sequence,
      ...(digest === undefined ? {} : { digest: digest.toHex() }),
      matches: intact,
      faults: faults.slice(0, TOLD_FAULTS_MAX),
    },
  });
  return faults;
}

/** The snapshot's digest, which is the one that it has, if any; and all that is wrong with it. */
async function sum(
  volumes: VolumeRow[],
  known: Uint8Array | undefined,
): Promise<{ digest: Uint8Array | undefined; faults: SnapshotFault[] }> {
  const faults = volumes.flatMap(({ volume_id: volumeId, fault }): SnapshotFault[] =>
    fault === null ? [] : [{ volumeId, detail: fault }]
  );
  const digested = volumes.flatMap(({ volume_id: volumeId, digest }) =>
    digest === null ? [] : [{ volumeId, digest }]
  );
  if (digested.length < volumes.length) return { digest: known, faults };
  const digest = await digestVolumes(digested);
  if (known === undefined || isSameDigest(known, digest)) return { digest, faults };
  const detail = `Cannot trust the digest: expected ${known.toHex()}, its volumes' make ${digest.toHex()}`;
  return { digest: known, faults: [...faults, { detail }] };
}
