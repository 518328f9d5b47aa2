/**
 * The reader: one process's way to the blocks of a pool's live volumes, by group.
 *
 * Reads that arrive while others are under way are gathered into the next statement, so what a statement costs is shared. Each
 * statement starts after the reads that it serves were asked for, so each sees all that was acknowledged before.
 *
 * Two statements are under way at most: while PostgreSQL works at one, the rows of the other are taken apart. The reads that
 * wait are bounded in number; those of one statement also in blocks, but for a single large one.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { type BlockRange, requireInside } from "./block.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";
import { readTargets, requireFound } from "./read.ts";
import type { Volume } from "./volume.ts";

interface WaitingRead {
  readonly volume: Volume;
  readonly range: BlockRange;
  readonly resolve: (bytes: Uint8Array<ArrayBuffer>) => void;
  readonly reject: (error: unknown) => void;
}

const STATEMENTS_MAX = 2;

export class Reader {
  readonly #waiting: WaitingRead[] = [];
  #statements = 0;

  constructor(
    private readonly database: Database,
    private readonly pool: Pool,
    private readonly limits: StorageLimits,
  ) {}

  /**
   * The blocks of `range` of a volume as it is now: `blockCount × blockSizeBytes` bytes of the caller's own.
   *
   * @throws {StorageError} `lba-out-of-range`; `volume-not-found` when it was deleted; `data-corrupt` when a block is not as it was
   *   written; `too-busy` when too many wait.
   */
  read(volume: Volume, range: BlockRange): Promise<Uint8Array<ArrayBuffer>> {
    requireInside(range, Number.MAX_SAFE_INTEGER, "read");
    if (this.#waiting.length >= this.limits.pendingRequestsMax) {
      throw new StorageError("too-busy", "Cannot take more reads now: too many wait");
    }
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array<ArrayBuffer>>();
    this.#waiting.push({ volume, range, resolve, reject });
    if (this.#statements < STATEMENTS_MAX) void this.#pump();
    return promise;
  }

  async #pump(): Promise<void> {
    this.#statements += 1;
    while (this.#waiting.length > 0) await this.#readGroup(this.#takeGroup());
    this.#statements -= 1;
  }

  #takeGroup(): WaitingRead[] {
    const { readGroupMax, readGroupBlocksMax } = this.limits;
    let count = 0;
    let blockCount = 0;
    for (const { range } of this.#waiting.slice(0, readGroupMax)) {
      if (count > 0 && blockCount + range.blockCount > readGroupBlocksMax) break;
      blockCount += range.blockCount;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }

  async #readGroup(group: WaitingRead[]): Promise<void> {
    try {
      const targets = group.map(({ volume: { volumeId }, range }) => ({ ...range, volumeId }));
      const found = await readTargets(this.database, this.pool, targets);
      for (const [index, read] of group.entries()) settle(read, found[index]);
    } catch (error) {
      for (const { reject } of group) reject(error);
    }
  }
}

function settle(
  { volume, range, resolve, reject }: WaitingRead,
  found: Parameters<typeof requireFound>[2],
): void {
  try {
    resolve(requireFound(volume, range, found));
  } catch (error) {
    reject(error);
  }
}
