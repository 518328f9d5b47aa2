/**
 * The appender: one process's way to a pool's ordered point, by group commit.
 *
 * Requests that arrive while a batch is being committed are gathered into the next, so the pool row's lock is taken once
 * per batch, not once per request. A request is answered only after its batch is committed (*durable*, 1).
 *
 * Two states: idle, or pumping batches until no request waits. The requests that wait are bounded in number and bytes.
 *
 * Who was the last to move the pool's head knows where it stands. So a batch is first committed from there, in one message
 * that fails if somebody else has moved it; then, and as long as others keep moving it, batches take the pool row's
 * lock first. So does a batch of which nothing is left to commit, for nothing then proves what it was refused for; and one that
 * finds the cache full, for what was flushed meanwhile is not known here.
 */

import { type Database, transact } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { type AppendOutcome, type AppendPlan, type AppendRequest, commitPlan, planBatch } from "./append.ts";
import type { StorageLimits } from "./limits.ts";
import { OpenMap } from "./open_map.ts";
import { isHeadMoved, lockPool, type Pool, type PoolHead } from "./pool.ts";

interface Waiting {
  readonly request: AppendRequest;
  readonly settle: (outcome: AppendOutcome) => void;
  readonly fail: (error: unknown) => void;
}

export class Appender {
  readonly #map: OpenMap;
  readonly #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #pumping?: Promise<void>;
  /** Where this process left the pool's head. */
  #head?: PoolHead;
  /** Whether the head stood there when it was last locked: nobody else is at it. */
  #undisturbed = false;

  /** @param onAppended is called after each commit, to wake a flusher. */
  constructor(
    private readonly database: Database,
    private readonly pool: Pool,
    private readonly limits: StorageLimits,
    private readonly clock: () => Date,
    private readonly onAppended: () => void,
  ) {
    this.#map = new OpenMap(limits.openMapSlotsMax);
  }

  /**
   * Appends a request and answers the sequence of its last entry, after its commit.
   *
   * @throws {StorageError} `too-busy` when too much waits already; what {@linkcode planBatch} refuses it for.
   */
  append(request: AppendRequest): Promise<{ sequence: number }> {
    const { pendingBytesMax, pendingRequestsMax } = this.limits;
    if (
      this.#waiting.length >= pendingRequestsMax || this.#waitingBytes + request.weightBytes > pendingBytesMax
    ) {
      throw new StorageError("too-busy", "Cannot take more writes now: too many wait for their commit");
    }
    const { promise, resolve, reject } = Promise.withResolvers<{ sequence: number }>();
    this.#waitingBytes += request.weightBytes;
    this.#waiting.push({
      request,
      settle: (outcome) => outcome instanceof StorageError ? reject(outcome) : resolve(outcome),
      fail: reject,
    });
    this.#pumping ??= this.#pump();
    return promise;
  }

  /** Waits until every request so far is answered. */
  async settled(): Promise<void> {
    await this.#pumping;
  }

  /** Ends in the same turn in which it finds nothing waiting, so no request can slip in between. */
  async #pump(): Promise<void> {
    while (this.#waiting.length > 0) await this.#appendBatch(this.#takeBatch());
    this.#pumping = undefined;
  }

  /** The oldest requests up to the batch's bounds; at least one. */
  #takeBatch(): Waiting[] {
    const { batchBytesMax, batchRequestsMax } = this.limits;
    let count = 0;
    let bytes = 0;
    for (const { request } of this.#waiting.slice(0, batchRequestsMax)) {
      if (count > 0 && bytes + request.weightBytes > batchBytesMax) break;
      bytes += request.weightBytes;
      count += 1;
    }
    this.#waitingBytes -= bytes;
    return this.#waiting.splice(0, count);
  }

  async #appendBatch(batch: Waiting[]): Promise<void> {
    try {
      const requests = batch.map(({ request }) => request);
      const plan = await this.#appendFromKnownHead(requests) ?? await this.#appendLocked(requests);
      this.#head = plan.head;
      this.#map.remember(plan.volumes, plan.slots);
      for (const [index, { settle }] of batch.entries()) settle(plan.outcomes[index]);
      this.onAppended();
    } catch (error) {
      this.#head = undefined;
      this.#map.forget();
      for (const { fail } of batch) fail(error);
    }
  }

  /** Commits a batch without asking first; nothing when that cannot be. */
  async #appendFromKnownHead(requests: AppendRequest[]): Promise<AppendPlan | undefined> {
    if (this.#head === undefined || !this.#undisturbed) return undefined;
    try {
      const plan = await planBatch(this.database, this.pool, this.#map, this.#head, requests);
      if (plan.entries.length === 0 || plan.outcomes.some(isCacheFull)) return undefined;
      await commitPlan(this.database, this.pool, plan, this.clock());
      return plan;
    } catch (error) {
      if (isHeadMoved(error)) return undefined;
      throw error;
    }
  }

  async #appendLocked(requests: AppendRequest[]): Promise<AppendPlan> {
    return await transact(this.database, async (tx) => {
      const head = await lockPool(tx, this.pool.poolId);
      this.#undisturbed = head.sequenceAppended === this.#head?.sequenceAppended &&
        head.mapVersion === this.#head.mapVersion;
      const plan = await planBatch(tx, this.pool, this.#map, head, requests);
      await commitPlan(tx, this.pool, plan, this.clock());
      return plan;
    });
  }
}

function isCacheFull(outcome: AppendOutcome): boolean {
  return outcome instanceof StorageError && outcome.code === "cache-full";
}
