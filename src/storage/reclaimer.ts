/**
 * The reclaimer: a worker that takes reclaim steps, one in each pool that has something to reclaim, as long as there is.
 *
 * It runs wherever a flusher runs, and keeps nothing in memory: it may be killed at any time, and any number of them may
 * run. Between two steps it rests as long as the step took, so it never takes more than half of what a pool's tail can do, and
 * the flusher goes on.
 */

import { type Database, transact } from "../database/client.ts";
import { reclaimStep } from "./reclaim.ts";

export interface ReclaimerOptions {
  /** How long it waits when there is nothing to do, or after a fault. */
  readonly pollMs: number;
  readonly clock: () => Date;
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
}

async function selectPools({ $client }: Database): Promise<string[]> {
  const rows = await $client<{ pool_id: string }[]>`
    select pool_id from pools p where exists (select from reclaims r where r.pool_id = p.pool_id)`;
  return rows.map((row) => row.pool_id);
}

export class Reclaimer {
  readonly #stopping = new AbortController();
  #wake: () => void = () => {};
  #running?: Promise<void>;

  constructor(private readonly database: Database, private readonly options: ReclaimerOptions) {}

  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends after the step in hand. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.wake();
    await this.#running;
  }

  /** Tells it that there is something to reclaim. */
  wake(): void {
    this.#wake();
  }

  /** One step in each pool; answers whether any did something. */
  async sweep(): Promise<boolean> {
    let progressed = false;
    for (const poolId of await selectPools(this.database)) {
      if (this.#stopping.signal.aborted) break;
      const { idle } = await transact(this.database, (tx) => reclaimStep(tx, poolId, this.options.clock()));
      progressed ||= !idle;
    }
    return progressed;
  }

  async #run(): Promise<void> {
    const { pollMs, onFault } = this.options;
    while (!this.#stopping.signal.aborted) {
      const startedAt = performance.now();
      let progressed = false;
      try {
        progressed = await this.sweep();
      } catch (error) {
        onFault(error);
      }
      await this.#pause(progressed ? performance.now() - startedAt : pollMs);
    }
  }

  #pause(ms: number): Promise<void> {
    if (this.#stopping.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
