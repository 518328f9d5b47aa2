/**
 * The flusher: a worker that flushes every pool, one step of one pool after the other.
 *
 *     idle ──(woken, nudged, or the poll time is over)──► sweeping ──(nothing left to do)──► idle
 *                                                           │ ▲
 *                                      (only a little done) ▼ │ (woken, or the pause is over)
 *                                                         gathering
 *
 * Which pools that is, their flush policies say ({@linkcode judgeFlush}).
 *
 * A step costs a few milliseconds however little it moves, so after a small one the flusher gathers for a moment: at 5,000
 * writes a second that is the difference between steps of 50 entries and steps of 500. A marker wakes it at once. A fault
 * is logged, and tried again after a pause.
 *
 * It may run in the server's process, in one of its own, or in any number of them: a step holds its pool's tail, and who
 * finds it held goes on to the next pool. Nothing is kept in memory but the rate, so it may be killed at any time.
 */

import { type Database, transact } from "../database/client.ts";
import { BackgroundWorker } from "./background_worker.ts";
import type { CacheMode } from "./cache_mode.ts";
import { type Flushed, type FlushPoint, flushStep } from "./flush.ts";
import {
  askFlush,
  type FlushCall,
  type FlushPolicy,
  judgeFlush,
  type QueueState,
  selectRestMs,
} from "./flush_policy.ts";
import type { StorageLimits } from "./limits.ts";
import { type Observer, UNOBSERVED } from "./observer.ts";
import type { Pool } from "./pool.ts";
import type { Rest } from "./work_loop.ts";

/** How much one more step weighs in the rate that ETAs are told from. */
const RATE_WEIGHT = 0.2;

/** What a flusher is given besides the database. */
export interface FlusherOptions {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  /** Told of a fault; the flusher goes on. */
  readonly onFault: (error: unknown) => void;
  readonly onPoint?: (point: FlushPoint) => void | Promise<void>;
  readonly observer?: Observer;
}

// Statements

interface DirtyRow {
  pool_id: string;
  name: string;
  block_size_bytes: number;
  segment_blocks: number;
  cache_bytes_max: number;
  created_at: string;
  policy: FlushPolicy;
  sequence_asked: number;
  sequence_flushed: number;
  dirty_bytes: number;
  cache_mode: CacheMode;
  has_marker: boolean;
  oldest_at: string | null;
}

/** A pool that has entries, and how its queue stands. */
interface DirtyPool {
  readonly pool: Pool;
  readonly queue: QueueState;
}

/**
 * Entries are looked at only where a policy asks for it. What is flushed then counts up to the oldest of them: behind what was written
 * through, the flusher's own position is left far behind what was asked for.
 */
async function selectDirtyPools(database: Database): Promise<DirtyPool[]> {
  const rows = await database.$client<DirtyRow[]>`
    select p.*, f.policy, f.sequence_asked, coalesce(oldest.sequence - 1, t.sequence_flushed) as sequence_flushed,
      h.bytes_appended - t.bytes_flushed as dirty_bytes, h.cache_mode,
      f.policy ->> 'kind' <> 'at-once' and exists (
        select from cache c where c.pool_id = p.pool_id and c.kind = 'marker'
      ) as has_marker,
      oldest.appended_at as oldest_at
    from pools p
    join pool_heads h on h.pool_id = p.pool_id
    join pool_tails t on t.pool_id = p.pool_id
    join flush_policies f on f.pool_id = p.pool_id
    left join lateral (
      select c.sequence, c.appended_at from cache c
      where c.pool_id = p.pool_id and c.sequence > t.sequence_flushed and f.policy ->> 'kind' <> 'at-once'
      order by c.sequence limit 1
    ) oldest on true
    where h.sequence_appended - h.entries_through > t.entries_flushed`;
  return rows.map(toDirtyPool);
}

function toDirtyPool(row: DirtyRow): DirtyPool {
  const { pool_id: poolId, name, cache_bytes_max: cacheBytesMax } = row;
  return {
    pool: {
      poolId,
      name,
      blockSizeBytes: row.block_size_bytes,
      segmentBlocks: row.segment_blocks,
      cacheBytesMax,
      createdAt: new Date(row.created_at),
    },
    queue: {
      policy: row.policy,
      isThrough: row.cache_mode === "write-through",
      cacheBytesMax,
      dirtyBytes: row.dirty_bytes,
      sequenceFlushed: row.sequence_flushed,
      sequenceAsked: row.sequence_asked,
      hasMarker: row.has_marker,
      oldestAt: row.oldest_at === null ? null : new Date(row.oldest_at),
    },
  };
}

/**
 * Tells whether a pool has entries, or a marker, that were to be flushed since longer than `ms` before `at`, and nothing of it was
 * flushed since then. What was flushed long behind `at` was so by a clock that was set back.
 */
export async function isQueueStalled(database: Database, at: Date, ms: number): Promise<boolean> {
  const since = new Date(at.getTime() - ms);
  const beyond = new Date(at.getTime() + ms);
  const [row] = await database.$client<{ stalled: boolean }[]>`
    select exists (
      select from pool_heads h join pool_tails t on t.pool_id = h.pool_id
      join flush_policies f on f.pool_id = h.pool_id
      where h.sequence_appended - h.entries_through > t.entries_flushed
        and coalesce(t.flushed_at, '-infinity') not between ${since.toISOString()} and ${beyond.toISOString()}
        and least((
          select c.appended_at from cache c where c.pool_id = h.pool_id and c.sequence > t.sequence_flushed
          order by c.sequence limit 1
        ) + ${selectRestMs(database)} * interval '1 ms', (
          select c.appended_at from cache c where c.pool_id = h.pool_id and c.kind = 'marker'
          order by c.sequence limit 1
        )) < ${since.toISOString()}
    ) as stalled`;
  return row.stalled;
}

interface Pace {
  bytesPerSecond: number;
  /** When progress was last told, in milliseconds of the epoch. */
  toldAt: number;
}

export class Flusher extends BackgroundWorker {
  readonly #paces = new Map<string, Pace>();
  /** Whether more is to be expected at once: a step was large, or there are markers. */
  #busy = false;
  /** Whether a pool has entries that its policy lets wait. */
  #resting = false;
  #sweptAt?: Date;

  constructor(private readonly database: Database, private readonly options: FlusherOptions) {
    const { limits, onFault } = options;
    super({ retryMs: limits.flushRetryMs, onFault });
  }

  /** When the flusher last found the database and looked at every pool. */
  get sweptAt(): Date | undefined {
    return this.#sweptAt;
  }

  /** Tells the flusher that there is something to do, though nobody waits for it. */
  nudge(): void {
    this.loop.nudge();
  }

  /**
   * One step for each pool whose entries are to be flushed now; answers whether any was flushed or sealed. A pool's fault is thrown when the
   * others have had their step.
   */
  async sweep(): Promise<boolean> {
    let progressed = false;
    const faults: unknown[] = [];
    for (const { pool, queue } of await selectDirtyPools(this.database)) {
      try {
        if (await this.#call(pool, queue) === "resting") continue;
        const flushed = await this.#step(pool);
        progressed ||= flushed.entryCount + flushed.sealedCount > 0;
        this.#busy ||= flushed.sealedCount > 0 || this.#isLarge(flushed);
      } catch (error) {
        faults.push(error);
      }
      if (this.loop.isStopping) break;
    }
    if (faults.length > 0) throw faults.length === 1 ? faults[0] : new AggregateError(faults);
    this.#sweptAt = this.options.clock();
    return progressed;
  }

  protected async round(): Promise<Rest> {
    const { flushPollMs, flushGatherMs } = this.options.limits;
    this.#busy = this.#resting = false;
    // Each append would wake it for entries that are to wait.
    if (!await this.sweep()) return { ms: flushPollMs, idle: !this.#resting };
    return { ms: this.#busy ? 0 : flushGatherMs };
  }

  /** Whether the pool is to be flushed. What has just become due is asked for, up to its end. */
  async #call({ poolId }: Pool, queue: QueueState): Promise<FlushCall> {
    const { clock, limits } = this.options;
    const call = judgeFlush(queue, clock(), limits);
    if (call === "due") await askFlush(this.database, poolId);
    this.#resting ||= call === "resting";
    return call;
  }

  async #step(pool: Pool): Promise<Flushed> {
    const { limits, clock, onPoint, observer = UNOBSERVED } = this.options;
    const at = clock();
    const startedAt = performance.now();
    const pace = this.#paces.get(pool.poolId) ?? { bytesPerSecond: 0, toldAt: 0 };
    const flushed = await transact(this.database, (tx) =>
      flushStep(tx, pool, {
        limits,
        at,
        bytesPerSecond: Math.round(pace.bytesPerSecond),
        // In either direction: the clock may have been set back.
        progressDue: Math.abs(at.getTime() - pace.toldAt) >= limits.progressMs,
        ...(onPoint === undefined ? {} : { onPoint }),
      }));
    const milliseconds = performance.now() - startedAt;
    if (flushed.entryCount + flushed.sealedCount > 0) observer.flushed(flushed, milliseconds);
    this.#paces.set(pool.poolId, nextPace(pace, flushed, at.getTime(), milliseconds));
    return flushed;
  }

  #isLarge({ entryCount, bytes }: Flushed): boolean {
    const { flushBatchEntriesMax, flushBatchBytesMax } = this.options.limits;
    return entryCount >= flushBatchEntriesMax / 2 || bytes >= flushBatchBytesMax / 2;
  }
}

/** Follows the rate of full steps; a pause between steps is not slowness. */
function nextPace(pace: Pace, flushed: Flushed, startedAt: number, milliseconds: number): Pace {
  const seconds = Math.max(1, milliseconds) / 1000;
  const rate = flushed.bytes / seconds;
  const bytesPerSecond = flushed.bytes === 0
    ? pace.bytesPerSecond
    : pace.bytesPerSecond === 0
    ? rate
    : pace.bytesPerSecond + RATE_WEIGHT * (rate - pace.bytesPerSecond);
  return { bytesPerSecond, toldAt: flushed.progressTold ? startedAt : pace.toldAt };
}
