/**
 * The appender: one process's way to a pool's ordered point, by group commit.
 *
 * Requests that arrive while a batch is being committed are gathered into the next, so the pool row's lock is taken once
 * per batch, not once per request. A request is answered only after its batch is committed (*durable*, 1).
 *
 * Two states: idle, or pumping batches until no request waits. The requests that wait are bounded in number and bytes.
 */

import { type Database, transact } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { appendBatch, type AppendOutcome, type AppendRequest } from "./append.ts";
import type { StorageLimits } from "./limits.ts";
import { OpenMap } from "./open_map.ts";
import type { Pool } from "./pool.ts";

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
   * @throws {StorageError} `too-busy` when too much waits already; what {@linkcode appendBatch} refuses it for.
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
      const appended = await transact(
        this.database,
        (tx) => appendBatch(tx, this.pool, this.#map, requests, this.clock()),
      );
      this.#map.remember(appended.volumes, appended.slots);
      for (const [index, { settle }] of batch.entries()) settle(appended.outcomes[index]);
      this.onAppended();
    } catch (error) {
      this.#map.forget();
      for (const { fail } of batch) fail(error);
    }
  }
}
