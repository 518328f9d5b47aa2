/**
 * Copies as front doors see them: the verbs that a client can ask for, with references as clients write them.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { cancelCopy, type Copy, createCopy, getCopy, listCopies } from "./copy.ts";
import { requireWhole } from "./covered.ts";
import { getDevice } from "./device.ts";
import type { StorageLimits } from "./limits.ts";
import { readAnswer } from "./fault.ts";
import { findMirror } from "./mirror.ts";
import type { Page, PageRequest } from "./page.ts";
import { findPoolId, getPool, type Pool } from "./pool.ts";
import { findSnapshotPlace, getSnapshot } from "./snapshot.ts";
import { findCoveredPlace } from "./snapshot_image.ts";

/** What is to be copied, and where to. */
export interface CopyInput {
  readonly snapshot: string;
  /** Where the snapshot's name is looked for. */
  readonly sourcePool?: string;
  /** Needed when the snapshot covers several. */
  readonly volume?: string;
  /** The pool that the copy is for. */
  readonly pool: string;
  /** The device of it that the copy's segments come from; by default, all of them. */
  readonly device?: string;
  /** The volume there that holds the copies; by default the one that does, or a new one with a name made of the volume's. */
  readonly name?: string;
}

export interface CopiesOptions {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  /** Wakes who copies, if it is in this process. */
  readonly onCreated: () => void;
  /** Wakes who reclaims. */
  readonly onCancelled: () => void;
}

export class Copies {
  constructor(private readonly database: Database, private readonly options: CopiesOptions) {}

  /**
   * Asks for a copy of a volume as a snapshot has it, in another pool.
   *
   * @throws {StorageError} `outside-snapshot` when the snapshot does not cover it whole; `invalid-argument` for the snapshot's own
   *   pool, or one of other blocks; `name-taken` when the name there is another volume's; `in-use`, `too-busy`.
   */
  async create(actor: Actor, input: CopyInput): Promise<Copy> {
    const { limits, clock, onCreated } = this.options;
    const target = await getPool(this.database, input.pool);
    const place = await findCoveredPlace(this.database, input.snapshot, input.sourcePool, input.volume);
    const { pool, snapshotId } = place;
    const covered = requireWhole(place.covered);
    requireOtherPool(pool, target);
    const device = input.device === undefined
      ? undefined
      : await getDevice(this.database, input.device, target.poolId);
    const source = { pool, volumeId: covered.volumeId, blockCount: covered.volumeBlocks };
    const at = clock();
    const copy = await createCopy(
      this.database,
      actor,
      {
        snapshot: await getSnapshot(this.database, snapshotId, pool.poolId),
        volumeId: covered.volumeId,
        targetPoolId: target.poolId,
        ...(device === undefined ? {} : { deviceId: device.deviceId }),
        targetVolumeId: await findMirror(this.database, actor, target, source, input.name, limits, at),
      },
      limits,
      at,
    );
    onCreated();
    return copy;
  }

  /** @throws {StorageError} `copy-not-found`. */
  async get(copyId: string): Promise<Copy> {
    return await getCopy(this.database, copyId);
  }

  /** The copies of a snapshot, oldest first. */
  async list(snapshot: string, pool: string | undefined, page: PageRequest): Promise<Page<Copy>> {
    const poolId = await findPoolId(this.database, pool);
    const place = await findSnapshotPlace(this.database, snapshot, poolId);
    return await listCopies(this.database, place.pool.poolId, place.snapshotId, page);
  }

  /** Cancels a copy; one that has ended stays as it is. Answers how it stands then. */
  async cancel(actor: Actor, copyId: string): Promise<Copy> {
    const { clock, onCancelled } = this.options;
    await cancelCopy(this.database, actor, await getCopy(this.database, copyId), clock());
    onCancelled();
    return await readAnswer(() => getCopy(this.database, copyId));
  }
}

function requireOtherPool(source: Pool, target: Pool): void {
  if (source.poolId === target.poolId) {
    throw new StorageError(
      "invalid-argument",
      `Cannot copy to pool ${target.name}: the snapshot is there already, and can be cloned`,
    );
  }
  if (source.blockSizeBytes === target.blockSizeBytes) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot copy to pool ${target.name}: expected blocks of ${source.blockSizeBytes} bytes, it has ${target.blockSizeBytes}`,
  );
}
