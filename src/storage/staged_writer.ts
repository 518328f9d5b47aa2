/**
 * The staged writer: fills staged contents ({@linkcode Staging}) by ordinary appends, each of bounded size, one after the other.
 *
 * It writes in ascending order. A full cache is no fault here, for it is filled by who writes a whole volume: the writer may wait
 * for the flusher, and goes on. Clearing costs what the base has there, not how far it reaches.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import type { CheckedWrite, Trim } from "./append.ts";
import type { Appender } from "./appender.ts";
import type { BlockRange } from "./block.ts";
import { CHECKSUM_BYTES, checksumBlocks } from "./checksum.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";
import { findLineage, listAllocated } from "./ranges.ts";
import { weighWrites } from "./request_size.ts";
import { isGivenUp, keepStaging, type Staging } from "./staging.ts";

/** Data of one append. */
const PIECE_BYTES = 1024 * 1024;
/** Ranges of the base that are cleared at once. */
const CLEARED_RANGES_MAX = 256;

/** What a writer works with. */
export interface StagedWriterOptions {
  readonly database: Database;
  readonly appender: Appender;
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  readonly actor: Actor;
  /** Whether a lease is to be put off while it writes. */
  readonly leased: boolean;
  /** How long it waits for the flusher where the cache is full. */
  readonly waitMsMax: number;
}

export class StagedWriter {
  #keepAt: number;

  /** @param startsFromBase whether there is anything to clear. */
  constructor(
    private readonly pool: Pool,
    private readonly staging: Staging,
    private readonly startsFromBase: boolean,
    private readonly options: StagedWriterOptions,
  ) {
    this.#keepAt = options.clock().getTime() + options.limits.stagingKeptMs / 2;
  }

  /** Blocks that one append has at most: as many are written wholly or not at all. */
  get pieceBlocks(): number {
    const { blockSizeBytes, cacheBytesMax } = this.pool;
    return Math.floor(Math.min(PIECE_BYTES, cacheBytesMax) / blockSizeBytes);
  }

  /**
   * Writes blocks. `data` must not change until it answers; `checksums` are those that the blocks come with.
   *
   * @throws {StorageError} `timed-out` when the contents were given up; what an append is refused for.
   */
  async write(
    lba: number,
    data: Uint8Array,
    checksums: Uint8Array = checksumBlocks(lba, data, this.pool.blockSizeBytes),
  ): Promise<void> {
    const { blockSizeBytes } = this.pool;
    const blockCount = data.length / blockSizeBytes;
    for (let start = 0; start < blockCount; start += this.pieceBlocks) {
      const end = Math.min(start + this.pieceBlocks, blockCount);
      await this.#append([{
        lba: lba + start,
        data: data.subarray(start * blockSizeBytes, end * blockSizeBytes),
        checksums: checksums.subarray(start * CHECKSUM_BYTES, end * CHECKSUM_BYTES),
      }]);
    }
  }

  /** Makes blocks read as zeros. @throws {StorageError} as {@linkcode StagedWriter.write}. */
  async clear({ lba, blockCount }: BlockRange): Promise<void> {
    if (!this.startsFromBase) return;
    const { database } = this.options;
    const { since } = this.staging;
    const parts = await findLineage(database, this.pool.poolId, since);
    const end = Math.min(lba + blockCount, this.staging.volumeBlocks);
    for (let at: number | undefined = lba; at !== undefined && at < end;) {
      const query = { parts, within: [{ lba: at, blockCount: end - at }], itemsMax: CLEARED_RANGES_MAX };
      const { items, next } = await listAllocated(database, this.pool, query);
      for (const trims of this.#toRequests(items)) await this.#append(trims);
      at = next === undefined ? undefined : Number(next);
    }
  }

  /** Clears what the base has behind the end that the volume is to have. */
  async clearBehind(blockCount: number): Promise<void> {
    const { volumeBlocks } = this.staging;
    if (blockCount < volumeBlocks) {
      await this.clear({ lba: blockCount, blockCount: volumeBlocks - blockCount });
    }
  }

  /** The ranges as trims, in requests of bounded size. */
  *#toRequests(ranges: BlockRange[]): Generator<Trim[]> {
    const { trimBlocksMax } = this.options.limits;
    let trims: Trim[] = [];
    let blocks = 0;
    for (const { lba, blockCount } of ranges) {
      for (let done = 0; done < blockCount;) {
        const trim = Math.min(blockCount - done, trimBlocksMax - blocks);
        trims.push({ lba: lba + done, trim });
        done += trim;
        blocks += trim;
        if (blocks < trimBlocksMax) continue;
        yield trims;
        trims = [];
        blocks = 0;
      }
    }
    if (trims.length > 0) yield trims;
  }

  async #append(writes: (CheckedWrite | Trim)[]): Promise<void> {
    const { appender, limits: { flushWaitPollMs }, actor, waitMsMax } = this.options;
    await this.#keep();
    const sizeBytes = writes.reduce((sum, write) => sum + ("data" in write ? write.data.length : 0), 0);
    const request = {
      volumeId: this.staging.stagingId,
      clientId: actor.clientId,
      priority: actor.priority,
      writes,
      sizeBytes,
      weightBytes: weighWrites(writes, sizeBytes, this.pool),
    };
    for (const givesUpAt = performance.now() + waitMsMax;;) {
      try {
        await appender.append(request);
        return;
      } catch (error) {
        if (isGone(error)) throw isGivenUp();
        if (!isPassing(error) || performance.now() >= givesUpAt) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, flushWaitPollMs));
    }
  }

  /** Puts the lease off when half of it is over. */
  async #keep(): Promise<void> {
    const { database, clock, leased, limits: { stagingKeptMs } } = this.options;
    const now = clock().getTime();
    if (!leased || now < this.#keepAt) return;
    const until = new Date(now + stagingKeptMs);
    if (!await keepStaging(database, this.pool.poolId, this.staging.stagingId, until)) throw isGivenUp();
    this.#keepAt = now + stagingKeptMs / 2;
  }
}

/** Tells whether `error` goes by as the flusher works. */
export function isPassing(error: unknown): boolean {
  return error instanceof StorageError && (error.code === "cache-full" || error.code === "too-busy");
}

function isGone(error: unknown): boolean {
  return error instanceof StorageError && error.code === "volume-not-found";
}
