/**
 * The appender: one process's way to a pool's ordered point, by group commit.
 *
 * Requests that arrive while a batch is being committed are gathered into the next, so the pool row's lock is taken once
 * per batch, not once per request. A request is answered only after its batch is committed (*durable*, 1).
 *
 * Two states: idle, or pumping batches until no request waits. The requests that wait are bounded in number and bytes.
 *
 * Two batches are under way: while one is copied and committed, the next is planned on where that one will leave the head, and its
 * message waits for the row's lock in PostgreSQL. It is sent when the first is known to hold the lock, so they cannot
 * overtake each other; if the first fails, the head is not where the second has it, and the second fails too.
 *
 * Who was the last to move the pool's head knows where it stands. So a batch is first committed from there, in one message
 * that fails if somebody else has moved it; then, and as long as others keep moving it, batches take the pool row's
 * lock first. So does a batch that lost a deadlock or the like, for nothing of it was committed; a batch of which nothing is left to
 * commit, for nothing then proves what it was refused for; and one that finds the cache full, for what was flushed meanwhile is
 * not known here. What was remembered in another life of the database (`life.ts`) counts for nothing.
 */

import { type Database, transact } from "../database/client.ts";
import { findFault } from "../database/connection_error.ts";
import { StorageError } from "../errors.ts";
import {
  type Appended,
  type AppendOutcome,
  type AppendPlan,
  type AppendRequest,
  commitPlan,
  planBatch,
} from "./append.ts";
import type { HeadMove } from "./head_move.ts";
import type { StorageLimits } from "./limits.ts";
import type { AppendedBatch } from "./observer.ts";
import { OpenMap } from "./open_map.ts";
import { isHeadMoved, lockPool, type Pool, type PoolHead } from "./pool.ts";
import { countBlocks, THROUGH_BLOCKS_MAX } from "./write_through.ts";

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
  /** Where this process left the pool's head, or will leave it. */
  #head?: PoolHead;
  /** Batches that somebody else was faster than. */
  readonly #overtaken: Waiting[][] = [];
  /** What moves the head beside the batches; never rejects. */
  readonly #moves: (() => Promise<void>)[] = [];
  /** The batches that are being committed; never rejects. */
  #underWay?: Promise<void>;
  /** Whether the head stood there when it was last locked: nobody else is at it. */
  #undisturbed = false;

  /**
   * @param onAppended is called after each commit, to wake a flusher.
   * @param onMarker is called after each marker's commit, with the milliseconds since it was asked for.
   */
  constructor(
    private readonly database: Database,
    private readonly pool: Pool,
    private readonly limits: StorageLimits,
    private readonly clock: () => Date,
    private readonly onAppended: (batch: AppendedBatch) => void,
    private readonly onMarker: (milliseconds: number) => void = () => {},
  ) {
    this.#map = new OpenMap(limits.openMapSlotsMax);
  }

  /**
   * Appends a request and answers the sequence of its last entry, after its commit.
   *
   * @throws {StorageError} `too-busy` when too much waits already; what {@linkcode planBatch} refuses it for.
   */
  append(request: AppendRequest): Promise<Appended> {
    const { pendingBytesMax, pendingRequestsMax } = this.limits;
    if (
      this.#waiting.length >= pendingRequestsMax || this.#waitingBytes + request.weightBytes > pendingBytesMax
    ) {
      throw new StorageError("too-busy", "Cannot take more writes now: too many wait for their commit");
    }
    const { promise, resolve, reject } = Promise.withResolvers<Appended>();
    this.#waitingBytes += request.weightBytes;
    this.#waiting.push({
      request,
      settle: (outcome) => outcome instanceof StorageError ? reject(outcome) : resolve(outcome),
      fail: reject,
    });
    this.#pumping ??= this.#pump();
    return promise;
  }

  /**
   * Runs `move`, which moves the pool's head by a transaction of its own, between two batches, ahead of all that wait. So this
   * process goes on knowing where the head stands, and neither waits for the other's lock.
   *
   * @throws {StorageError} `too-busy` when too many wait already; whatever `move` throws.
   */
  runAlone<T extends HeadMove>(move: () => Promise<T>): Promise<T> {
    if (this.#moves.length >= this.limits.pendingRequestsMax) {
      throw new StorageError("too-busy", "Cannot take more commands now: too many wait for their turn");
    }
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const askedAt = performance.now();
    this.#moves.push(async () => {
      try {
        const moved = await move();
        if (!isSame(moved.found, this.#head)) {
          this.#undisturbed = false;
          this.#map.distrust();
        }
        const { found, left, opened } = moved;
        if (opened !== undefined) {
          this.#map.openEpochs(found, left, opened);
          this.onMarker(performance.now() - askedAt);
        }
        this.#head = moved.left;
        resolve(moved);
      } catch (error) {
        reject(error);
      }
    });
    this.#pumping ??= this.#pump();
    return promise;
  }

  /** Waits until every request so far is answered. */
  async settled(): Promise<void> {
    await this.#pumping;
  }

  /**
   * Batches and moves take turns, so that no number of snapshots holds up a write longer than one of them. Ends in the same
   * turn in which it finds nothing to do, so no request can slip in between.
   */
  async #pump(): Promise<void> {
    let isMovesTurn: boolean = true;
    while (this.#hasWork()) {
      const isMove: boolean = this.#moves.length > 0 && (isMovesTurn || this.#waiting.length === 0);
      const isPipelined = this.#waiting.length > 0 && this.#overtaken.length === 0 && !isMove;
      if (!isPipelined || !this.#knowsHead()) {
        await this.#underWay;
        this.#underWay = undefined;
      }
      if (this.#overtaken.length > 0) await this.#appendLocked(this.#overtaken.shift() as Waiting[]);
      else if (isMove) await this.#moves.shift()?.();
      else if (this.#waiting.length > 0) await this.#appendNext(this.#takeBatch());
      isMovesTurn = !isMove;
    }
    this.#pumping = undefined;
  }

  async #appendNext(batch: Waiting[]): Promise<void> {
    if (this.#knowsHead()) await this.#startFromKnownHead(batch);
    else await this.#appendLocked(batch);
  }

  #hasWork(): boolean {
    const { length } = this.#waiting;
    return length + this.#overtaken.length + this.#moves.length > 0 || this.#underWay !== undefined;
  }

  #knowsHead(): boolean {
    return this.#head !== undefined && this.#undisturbed;
  }

  /** The oldest requests up to the batch's bounds; at least one. */
  #takeBatch(): Waiting[] {
    const { batchBytesMax, batchRequestsMax } = this.limits;
    // A head that is not known may be of such a pool.
    const isThrough = (this.#head?.cacheMode ?? "write-through") === "write-through";
    let count = 0;
    let bytes = 0;
    let blocks = 0;
    for (const { request } of this.#waiting.slice(0, batchRequestsMax)) {
      if (isThrough) blocks += countBlocks(request, this.pool);
      if (count > 0 && (bytes + request.weightBytes > batchBytesMax || blocks > THROUGH_BLOCKS_MAX)) break;
      bytes += request.weightBytes;
      count += 1;
    }
    this.#waitingBytes -= bytes;
    return this.#waiting.splice(0, count);
  }

  /** Sends a batch without asking first, and answers when the next may follow. */
  async #startFromKnownHead(batch: Waiting[]): Promise<void> {
    const plan = await this.#planFromKnownHead(batch);
    if (plan === undefined) return;
    this.#head = plan.head;
    this.#map.remember(plan.learnt);
    const held = Promise.withResolvers<void>();
    const committed = this.#commitFromKnownHead(batch, plan, held.resolve);
    const before = this.#underWay;
    this.#underWay = Promise.all([before, committed]).then(() => {});
    await Promise.race([held.promise, committed]);
  }

  /** Nothing when the batch was put aside or has failed. */
  async #planFromKnownHead(batch: Waiting[]): Promise<AppendPlan | undefined> {
    const head = this.#head as PoolHead;
    // What a batch under way has mapped and taken is seen only once it is committed.
    const connect = async () => {
      await this.#underWay;
      if (this.#head !== head) throw new HeadMovedError();
      return this.database;
    };
    try {
      const plan = await planBatch(connect, this.pool, this.#map, head, batch.map(({ request }) => request));
      if (plan.entries.length > 0 && !plan.outcomes.some(isCacheFull)) return plan;
      this.#overtaken.push(batch);
    } catch (error) {
      this.#putAside(batch, error);
    }
  }

  async #commitFromKnownHead(batch: Waiting[], plan: AppendPlan, onHeld: () => void): Promise<void> {
    const startedAt = performance.now();
    try {
      await commitPlan(this.database, this.pool, plan, this.clock(), onHeld);
      this.#settle(batch, plan, startedAt);
    } catch (error) {
      this.#putAside(batch, error);
    }
  }

  /** Appends a batch under the pool row's lock. No other is under way. */
  async #appendLocked(batch: Waiting[]): Promise<void> {
    const startedAt = performance.now();
    try {
      const plan = await transact(this.database, async (tx) => {
        const head = await lockPool(tx, this.pool.poolId);
        this.#undisturbed = isSame(head, this.#head);
        if (!this.#undisturbed) this.#map.distrust();
        const requests = batch.map(({ request }) => request);
        const plan = await planBatch(() => Promise.resolve(tx), this.pool, this.#map, head, requests);
        await commitPlan(tx, this.pool, plan, this.clock());
        return plan;
      });
      this.#head = plan.head;
      this.#map.remember(plan.learnt);
      this.#settle(batch, plan, startedAt);
    } catch (error) {
      this.#fail(batch, error);
    }
  }

  #settle(batch: Waiting[], { outcomes, entries }: AppendPlan, startedAt: number): void {
    const milliseconds = performance.now() - startedAt;
    let bytes = 0;
    for (const [index, { request, settle }] of batch.entries()) {
      settle(outcomes[index]);
      if (!(outcomes[index] instanceof StorageError)) bytes += request.sizeBytes;
    }
    this.onAppended({ requestCount: batch.length, entryCount: entries.length, bytes, milliseconds });
  }

  /** Puts a batch aside whose head was not where it should have been, or that others were in the way of: it changed nothing. */
  #putAside(batch: Waiting[], error: unknown): void {
    const isMoved = isHeadMoved(error) || error instanceof HeadMovedError;
    if (!isMoved && findFault(error) !== "conflict") return this.#fail(batch, error);
    this.#map.forget();
    this.#undisturbed = false;
    this.#overtaken.push(batch);
  }

  #fail(batch: Waiting[], error: unknown): void {
    this.#map.forget();
    this.#head = undefined;
    for (const { fail } of batch) fail(error);
  }
}

/** The batch that this one was planned upon has failed. */
class HeadMovedError extends Error {}

function isSame(found: PoolHead, known: PoolHead | undefined): boolean {
  return found.sequenceAppended === known?.sequenceAppended && found.mapVersion === known.mapVersion &&
    found.life === known.life;
}

function isCacheFull(outcome: AppendOutcome): boolean {
  return outcome instanceof StorageError && outcome.code === "cache-full";
}
