/**
 * Cache pressure: writes are slowed, the more the nearer a pool's cache is to its bound, so that clients are brought to the pace
 * of the flusher before any of them is refused. Snapshots and trims are never slowed.
 *
 * Up to half of the bound nothing is: that much is what a cache is for. From there on the delay grows with the square of what is
 * taken of the other half. How much is dirty is looked up now and then, and in between counted on by what this process
 * has asked for; other processes' writes are seen at the next look. What is written through comes to no cache, so nothing is counted
 * on.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";

/** How full a cache may be before writes are slowed. */
const UNSLOWED_SHARE = 0.5;
/** A look that is older is made again: while writes are slowed, and while none is. */
const LOOK_MS = 50;
const CALM_LOOK_MS = 1_000;

type PressureLimits = Pick<StorageLimits, "slowMsMax" | "pendingBytesMax">;

/** How long a write waits when so much of the cache's bound is dirty, in milliseconds. */
export function toDelayMs(
  dirtyBytes: number,
  cacheBytesMax: number,
  { slowMsMax }: Pick<PressureLimits, "slowMsMax">,
): number {
  const share = (dirtyBytes / cacheBytesMax - UNSLOWED_SHARE) / (1 - UNSLOWED_SHARE);
  return slowMsMax * Math.min(1, Math.max(0, share)) ** 2;
}

export class CachePressure {
  #dirtyBytes = 0;
  /** Asked for since the last look. */
  #askedBytes = 0;
  /** Of the writes that are being slowed: they are held in memory meanwhile. */
  #slowedBytes = 0;
  #isThrough = false;
  #lookedAt = -Infinity;
  #looking?: Promise<void>;

  constructor(
    private readonly database: Database,
    private readonly pool: Pool,
    private readonly limits: PressureLimits,
  ) {}

  /**
   * What a write of so many bytes has to wait for; nothing when it may go on at once.
   *
   * @throws {StorageError} `too-busy` when too many are slowed already.
   */
  slow(sizeBytes: number): Promise<void> | undefined {
    this.#askedBytes += sizeBytes;
    if (sizeBytes === 0) return undefined;
    const age = performance.now() - this.#lookedAt;
    if (this.#delayMs() === 0) {
      // A look that fails says nothing: the append itself will meet the fault.
      if (age > CALM_LOOK_MS) this.#look().catch(() => {});
      return undefined;
    }
    if (this.#slowedBytes + sizeBytes > this.limits.pendingBytesMax) {
      throw new StorageError("too-busy", "Cannot take more writes now: too many wait for room in the cache");
    }
    this.#slowedBytes += sizeBytes;
    return this.#wait(age > LOOK_MS).finally(() => this.#slowedBytes -= sizeBytes);
  }

  async #wait(mustLook: boolean): Promise<void> {
    if (mustLook) await this.#look();
    const delayMs = this.#delayMs();
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
  }

  #delayMs(): number {
    const comingBytes = this.#isThrough ? 0 : this.#askedBytes;
    return toDelayMs(this.#dirtyBytes + comingBytes, this.pool.cacheBytesMax, this.limits);
  }

  /** One look at a time serves all who wait. */
  #look(): Promise<void> {
    return this.#looking ??= this.#selectDirty().finally(() => this.#looking = undefined);
  }

  async #selectDirty(): Promise<void> {
    const { poolId } = this.pool;
    const askedBefore = this.#askedBytes;
    this.#lookedAt = performance.now();
    const [row] = await this.database.$client<{ dirty_bytes: number; is_through: boolean }[]>`
      select h.bytes_appended - t.bytes_flushed as dirty_bytes, h.cache_mode = 'write-through' as is_through
      from pool_heads h join pool_tails t on t.pool_id = h.pool_id where h.pool_id = ${poolId}`;
    this.#dirtyBytes = row?.dirty_bytes ?? 0;
    this.#isThrough = row?.is_through ?? false;
    this.#askedBytes -= askedBefore;
  }
}
