/**
 * Mirrors: volumes that hold the copies of a volume of another pool. Which one is whose is recorded, so that no other volume is
 * ever written over because it has the name.
 *
 * A mirror is an ordinary volume otherwise. Who writes to it makes the next copy a full one.
 */

import { and, desc, eq, isNull } from "drizzle-orm";
import { type Database, transact } from "../database/client.ts";
import { mirrors, volumes } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { createId } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";
import { createVolumeWithin, requireNewName } from "./volume.ts";

/** The volume whose copies a mirror holds, and what to make if there is no mirror yet. */
export interface MirrorSource {
  readonly poolId: string;
  readonly volumeId: string;
  /** As many blocks as the first copy has. */
  readonly blockCount: number;
}

// Statements

async function selectMirror(
  database: Database,
  { poolId }: Pool,
  source: MirrorSource,
  name: string | undefined,
): Promise<string | undefined> {
  const [row] = await database.select({ volumeId: volumes.volumeId }).from(mirrors)
    .innerJoin(volumes, and(eq(volumes.poolId, mirrors.poolId), eq(volumes.volumeId, mirrors.volumeId)))
    .where(and(
      eq(mirrors.poolId, poolId),
      eq(mirrors.sourcePoolId, source.poolId),
      eq(mirrors.sourceVolumeId, source.volumeId),
      isNull(volumes.deletedAt),
      name === undefined ? undefined : eq(volumes.name, name),
    ))
    .orderBy(desc(volumes.volumeId)).limit(1);
  return row?.volumeId;
}

/** Also of a deleted volume: its snapshots stay. */
async function selectSourceName(database: Database, source: MirrorSource): Promise<string> {
  const [row] = await database.select({ name: volumes.name }).from(volumes)
    .where(and(eq(volumes.poolId, source.poolId), eq(volumes.volumeId, source.volumeId))).limit(1);
  return row.name;
}

// Verbs

/**
 * Finds the mirror of a volume in `pool`, the newest unless it is named, or else makes one, by default of the volume's name.
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
  const newName = name ?? await selectSourceName(database, source);
  try {
    return await createMirror(database, actor, pool, source, newName, limits, at);
  } catch (error) {
    if (!(error instanceof StorageError) || error.code !== "name-taken") throw error;
    // Somebody else was faster.
    const made = await selectMirror(database, pool, source, newName);
    if (made !== undefined) return made;
    throw new StorageError(
      "name-taken",
      `Cannot keep copies in volume ${newName}: the pool has one that is not for them; give another name`,
    );
  }
}

async function createMirror(
  database: Database,
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
  const input = { name, blockCount: source.blockCount };
  return await requireNewName(name, () =>
    transact(database, async (tx) => {
      await tx.insert(mirrors).values({
        poolId: pool.poolId,
        volumeId,
        sourcePoolId: source.poolId,
        sourceVolumeId: source.volumeId,
      });
      await createVolumeWithin(tx, maker, pool, volumeId, input, limits, at);
      return volumeId;
    }));
}
