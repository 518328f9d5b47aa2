/**
 * Mirrors: volumes that hold the copies of a volume of another pool. Which one is whose is recorded, so that no other volume is
 * ever written over because it has the name. By default it has a name of its own, so that who names the volume without its pool
 * still means that one alone.
 *
 * A mirror is an ordinary volume otherwise. Who writes to it makes the next copy a full one. One that was given nothing goes with
 * the copy that came to nothing.
 */

import { and, desc, eq, isNull } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { mirrors, volumes } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { listNumbered, toCopyName } from "./derived_name.ts";
import { createId } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import { lockPool, type Pool } from "./pool.ts";
import {
  createVolumeWithin,
  deleteVolumeWithin,
  findFreeVolumeName,
  lockVolume,
  type ToldDeletion,
} from "./volume.ts";

/** The volume whose copies a mirror holds, and what to make if there is no mirror yet. */
export interface MirrorSource {
  readonly pool: Pool;
  readonly volumeId: string;
  /** As many blocks as the first copy has. */
  readonly blockCount: number;
}

// Statements

async function selectMirror(
  connection: Connection,
  { poolId }: Pool,
  source: MirrorSource,
  name: string | undefined,
): Promise<string | undefined> {
  const [row] = await connection.select({ volumeId: volumes.volumeId }).from(mirrors)
    .innerJoin(volumes, and(eq(volumes.poolId, mirrors.poolId), eq(volumes.volumeId, mirrors.volumeId)))
    .where(and(
      eq(mirrors.poolId, poolId),
      eq(mirrors.sourcePoolId, source.pool.poolId),
      eq(mirrors.sourceVolumeId, source.volumeId),
      isNull(volumes.deletedAt),
      name === undefined ? undefined : eq(volumes.name, name),
    ))
    .orderBy(desc(volumes.volumeId)).limit(1);
  return row?.volumeId;
}

/** Also of a deleted volume: its snapshots stay. */
async function selectSourceName(
  tx: Transaction,
  { pool: { poolId }, volumeId }: MirrorSource,
): Promise<string> {
  const [row] = await tx.select({ name: volumes.name }).from(volumes)
    .where(and(eq(volumes.poolId, poolId), eq(volumes.volumeId, volumeId))).limit(1);
  return row.name;
}

/** Locks a mirror so that it is not deleted before the transaction ends. Answers whether it is there. */
export async function lockMirror(tx: Transaction, poolId: string, volumeId: string): Promise<boolean> {
  const rows = await tx.$client`
    select from volumes where pool_id = ${poolId} and volume_id = ${volumeId} and deleted_at is null for share`;
  return rows.length > 0;
}

/**
 * Whether a volume is a mirror that holds nothing: its timeline starts from zeros and has no segment, no snapshot covers it, and
 * nothing is on its way into it. The pool and the volume are locked.
 */
async function selectIsEmpty({ $client }: Transaction, poolId: string, volumeId: string): Promise<boolean> {
  const [{ empty }] = await $client<[{ empty: boolean }]>`
    select exists (
      select from mirrors m
      join volumes v on v.pool_id = m.pool_id and v.volume_id = m.volume_id and v.deleted_at is null
      join timelines t on t.pool_id = v.pool_id and t.timeline_id = v.timeline_id
      where m.pool_id = ${poolId} and m.volume_id = ${volumeId} and t.parent_timeline_id is null
        and not exists (
          select from segment_map s where s.pool_id = ${poolId} and s.timeline_id = t.timeline_id
        ) and not exists (
          select from timelines o join snapshot_volumes c on c.pool_id = o.pool_id and c.timeline_id = o.timeline_id
          where o.pool_id = ${poolId} and o.volume_id = ${volumeId}
        ) and not exists (
          select from stagings s where s.pool_id = ${poolId} and s.volume_id = ${volumeId}
        ) and not exists (
          select from copies c
          where c.pool_id = m.source_pool_id and c.status = 'running' and c.target_volume_id = ${volumeId}
        )
    ) as empty`;
  return empty;
}

async function deleteMirror(tx: Transaction, poolId: string, volumeId: string): Promise<void> {
  await tx.delete(mirrors).where(and(eq(mirrors.poolId, poolId), eq(mirrors.volumeId, volumeId)));
}

// Verbs

/**
 * Finds the mirror of a volume in `pool`, the newest unless it is named, or else makes one, by default of the volume's name with
 * its pool's behind it.
 *
 * @throws {StorageError} `name-taken` when a volume has the name that is no mirror of it; `invalid-argument` for a name.
 */
export async function findMirror(
  database: Database,
  actor: Actor,
  pool: Pool,
  source: MirrorSource,
  name: string | undefined,
  limits: StorageLimits,
  at: Date,
): Promise<string> {
  const found = await selectMirror(database, pool, source, name);
  if (found !== undefined) return found;
  return await transact(database, async (tx) => {
    await lockPool(tx, pool.poolId);
    // Somebody else may have been faster.
    return await selectMirror(tx, pool, source, name) ??
      await createMirror(tx, actor, pool, source, await chooseName(tx, pool, source, name), limits, at);
  });
}

/** The pool is locked. */
async function chooseName(
  tx: Transaction,
  { poolId }: Pool,
  source: MirrorSource,
  name: string | undefined,
): Promise<string> {
  const wanted = name ?? toCopyName(await selectSourceName(tx, source), source.pool.name);
  const free = await findFreeVolumeName(tx, poolId, name === undefined ? listNumbered(wanted) : [wanted]);
  if (free !== undefined) return free;
  throw new StorageError(
    "name-taken",
    `Cannot keep copies in volume ${wanted}: the pool has one that is not for them; give another name`,
  );
}

async function createMirror(
  tx: Transaction,
  actor: Actor,
  pool: Pool,
  source: MirrorSource,
  name: string,
  limits: StorageLimits,
  at: Date,
): Promise<string> {
  const volumeId = createId();
  // Not what a request under a key has done: that is the copy.
  const { claim: _, ...maker } = actor;
  await tx.insert(mirrors).values({
    poolId: pool.poolId,
    volumeId,
    sourcePoolId: source.pool.poolId,
    sourceVolumeId: source.volumeId,
  });
  await createVolumeWithin(tx, maker, pool, volumeId, { name, blockCount: source.blockCount }, limits, at);
  return volumeId;
}

/**
 * Deletes a volume if it is a mirror that holds nothing, and answers the event of that, for the caller to append last. The pool
 * is locked.
 */
export async function dropEmptyMirror(
  tx: Transaction,
  poolId: string,
  volumeId: string,
  at: Date,
): Promise<ToldDeletion | undefined> {
  // Who asks for a copy into it has it locked meanwhile: that copy is seen then.
  await lockVolume(tx, poolId, volumeId);
  if (!await selectIsEmpty(tx, poolId, volumeId)) return undefined;
  await deleteMirror(tx, poolId, volumeId);
  return await deleteVolumeWithin(tx, poolId, volumeId, at);
}
