/**
 * The flusher: a worker that flushes every pool, one step of one pool after the other.
 *
 *     idle ──(woken, nudged, or the poll time is over)──► sweeping ──(nothing left to do)──► idle
 *                                                           │ ▲
 *                                      (only a little done) ▼ │ (woken, or the pause is over)
 *                                                         gathering
 *
 * A step costs a few milliseconds however little it moves, so after a small one the flusher gathers for a moment: at 5,000
 * writes a second that is the difference between steps of 50 entries and steps of 500. A marker wakes it at once. A fault
 * is logged, and tried again after a pause.
 *
 * It may run in the server's process, in one of its own, or in any number of them: a step holds its pool's tail, and who
 * finds it held goes on to the next pool. Nothing is kept in memory but the rate, so it may be killed at any time.
 */

import { type Database, transact } from "../database/client.ts";
import { type Flushed, type FlushPoint, flushStep } from "./flush.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";

/** How much one more step weighs in the rate that ETAs are told from. */
const RATE_WEIGHT = 0.2;

/** What a flusher is given besides the database. */
export interface FlusherOptions {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  /** Told of a fault; the flusher goes on. */
  readonly onFault: (error: unknown) => void;
  readonly onPoint?: (point: FlushPoint) => void | Promise<void>;
}

// Statements

interface DirtyRow {
  pool_id: string;
  name: string;
  block_size_bytes: number;
  segment_blocks: number;
  cache_bytes_max: number;
  created_at: string;
}

async function selectDirtyPools(database: Database): Promise<Pool[]> {
  const rows = await database.$client<DirtyRow[]>`
    select p.* from pools p
    join pool_heads h on h.pool_id = p.pool_id
    join pool_tails t on t.pool_id = p.pool_id
    where h.sequence_appended > t.entries_flushed`;
  return rows.map((row) => ({
    poolId: row.pool_id,
    name: row.name,
    blockSizeBytes: row.block_size_bytes,
    segmentBlocks: row.segment_blocks,
    cacheBytesMax: row.cache_bytes_max,
    createdAt: new Date(row.created_at),
  }));
}

/** Tells whether a pool has entries since before `since`, and nothing of it was flushed since then. */
export async function isQueueStalled(database: Database, since: Date): Promise<boolean> {
  const [row] = await database.$client<{ stalled: boolean }[]>`
    select exists (
      select from pool_heads h join pool_tails t on t.pool_id = h.pool_id
      where h.sequence_appended > t.entries_flushed
        and coalesce(t.flushed_at, '-infinity') < ${since.toISOString()}
        and (
          select c.appended_at from cache c where c.pool_id = h.pool_id and c.sequence > t.sequence_flushed
          order by c.sequence limit 1
        ) < ${since.toISOString()}
    ) as stalled`;
  return row.stalled;
}

interface Pace {
  bytesPerSecond: number;
  /** When progress was last told, in milliseconds of the epoch. */
  toldAt: number;
}

export class Flusher {
  readonly #stopping = new AbortController();
  readonly #paces = new Map<string, Pace>();
  /** Whether more is to be expected at once: a step was large, or there are markers. */
  #busy = false;
  #wake: () => void = () => {};
  #woken = false;
  #nudged = false;
  #idling = false;
  #sweptAt?: Date;
  #running?: Promise<void>;

  constructor(private readonly database: Database, private readonly options: FlusherOptions) {}

  /** When the flusher last found the database and looked at every pool. */
  get sweptAt(): Date | undefined {
    return this.#sweptAt;
  }

  /** Starts sweeping; ends with {@linkcode Flusher.stop}. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends after the step in hand. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.wake();
    await this.#running;
  }

  /** Tells the flusher that somebody waits: for a marker, or for a flush. */
  wake(): void {
    this.#woken = true;
    this.#wake();
  }

  /** Tells the flusher that there is something to do, though nobody waits for it. */
  nudge(): void {
    this.#nudged = true;
    if (this.#idling) this.#wake();
  }

  /**
   * One step for each pool that has entries; answers whether any was flushed or sealed. A pool's fault is thrown when the
   * others have had their step.
   */
  async sweep(): Promise<boolean> {
    let progressed = false;
    const faults: unknown[] = [];
    for (const pool of await selectDirtyPools(this.database)) {
      try {
        const flushed = await this.#step(pool);
        progressed ||= flushed.entryCount + flushed.sealedCount > 0;
        this.#busy ||= flushed.sealedCount > 0 || this.#isLarge(flushed);
      } catch (error) {
        faults.push(error);
      }
      if (this.#stopping.signal.aborted) break;
    }
    if (faults.length > 0) throw faults.length === 1 ? faults[0] : new AggregateError(faults);
    this.#sweptAt = this.options.clock();
    return progressed;
  }

  async #run(): Promise<void> {
    const { limits: { flushPollMs, flushGatherMs, flushRetryMs }, onFault } = this.options;
    while (!this.#stopping.signal.aborted) {
      this.#woken = this.#nudged = this.#busy = false;
      try {
        if (!await this.sweep()) await this.#idle(flushPollMs);
        else if (!this.#busy) await this.#pause(flushGatherMs);
      } catch (error) {
        onFault(error);
        await this.#pause(flushRetryMs);
      }
    }
  }

  async #step(pool: Pool): Promise<Flushed> {
    const { limits, clock, onPoint } = this.options;
    const at = clock();
    const pace = this.#paces.get(pool.poolId) ?? { bytesPerSecond: 0, toldAt: 0 };
    const flushed = await transact(this.database, (tx) =>
      flushStep(tx, pool, {
        limits,
        at,
        bytesPerSecond: Math.round(pace.bytesPerSecond),
        progressDue: at.getTime() - pace.toldAt >= limits.progressMs,
        ...(onPoint === undefined ? {} : { onPoint }),
      }));
    this.#paces.set(pool.poolId, nextPace(pace, flushed, at.getTime(), clock().getTime()));
    return flushed;
  }

  #isLarge({ entryCount, bytes }: Flushed): boolean {
    const { flushBatchEntriesMax, flushBatchBytesMax } = this.options.limits;
    return entryCount >= flushBatchEntriesMax / 2 || bytes >= flushBatchBytesMax / 2;
  }

  /** Waits until there is something to do, or until `ms` are over. */
  async #idle(ms: number): Promise<void> {
    if (this.#nudged) return;
    this.#idling = true;
    await this.#pause(ms);
    this.#idling = false;
  }

  /** Waits until woken or until `ms` are over, whichever comes first. */
  #pause(ms: number): Promise<void> {
    if (this.#woken || this.#stopping.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Follows the rate of full steps; a pause between steps is not slowness. */
function nextPace(pace: Pace, flushed: Flushed, startedAt: number, endedAt: number): Pace {
  const seconds = Math.max(1, endedAt - startedAt) / 1000;
  const rate = flushed.bytes / seconds;
  const bytesPerSecond = flushed.bytes === 0
    ? pace.bytesPerSecond
    : pace.bytesPerSecond === 0
    ? rate
    : pace.bytesPerSecond + RATE_WEIGHT * (rate - pace.bytesPerSecond);
  return { bytesPerSecond, toldAt: flushed.progressTold ? startedAt : pace.toldAt };
}
