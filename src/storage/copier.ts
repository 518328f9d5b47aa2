/**
 * The copier: a worker that takes steps of copies ({@linkcode stepCopy}), one of each copy that it has, as long as there are any.
 *
 * What one was at is taken up by another when its lease is over, or at once when it was stopped. Between two rounds it rests as
 * long as the round took, so that it leaves half of what it could take to others.
 */

import type { Database } from "../database/client.ts";
import type { Appender } from "./appender.ts";
import { SweepingWorker } from "./background_worker.ts";
import { claimCopies, type Copy, CopyLostError, failCopy, releaseCopies } from "./copy.ts";
import { stepCopy } from "./copy_step.ts";
import { PASSING_FAULTS, toStorageError } from "./fault.ts";
import { createId } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";
import { isPassing } from "./staged_writer.ts";

export interface CopierOptions {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  /** By which this process appends to a pool. */
  readonly appenderOf: (pool: Pool) => Appender;
  /** Told that a copy has ended, and left something to flush or to reclaim. */
  readonly onEnded?: () => void;
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
}

/** Rest for each millisecond of work. */
const REST_SHARE = 1;

export class Copier extends SweepingWorker {
  readonly #workerId = createId();

  constructor(private readonly database: Database, private readonly options: CopierOptions) {
    const { limits: { copyPollMs: pollMs }, onFault } = options;
    super({ pollMs, restShare: REST_SHARE, onFault });
  }

  /** Ends after the step in hand, and leaves its copies to others. */
  override async stop(): Promise<void> {
    await super.stop();
    try {
      await releaseCopies(this.database, this.#workerId);
    } catch (error) {
      // Their leases run out.
      this.options.onFault(error);
    }
  }

  /** One step of each copy that it has; answers whether any went on. */
  async sweep(): Promise<boolean> {
    const { clock, limits: { copyLeaseMs } } = this.options;
    let progressed = false;
    for (const copy of await claimCopies(this.database, this.#workerId, clock(), copyLeaseMs)) {
      if (this.loop.isStopping) break;
      progressed = await this.#step(copy) || progressed;
    }
    return progressed;
  }

  async #step(copy: Copy): Promise<boolean> {
    const { onEnded, onFault } = this.options;
    try {
      const progressed = await stepCopy(this.#context(), copy);
      if (copy.phase === "telling" || copy.phase === "switching") onEnded?.();
      return progressed;
    } catch (error) {
      if (error instanceof CopyLostError || isPassing(error)) return false;
      const known = toStorageError(error);
      const goesBy = known !== undefined && PASSING_FAULTS.has(known.code);
      if (known === undefined || goesBy || known.code === "data-corrupt") onFault(error);
      if (goesBy) return false;
      return await this.#fail(
        copy,
        known ?? {
          code: "internal-error",
          message: "The server failed at this copy; its log has the details",
        },
      );
    }
  }

  async #fail(copy: Copy, { code, message: detail }: { code: string; message: string }): Promise<boolean> {
    const { clock, onEnded } = this.options;
    try {
      await failCopy(this.database, copy, this.#workerId, { code, detail }, clock());
    } catch (error) {
      if (error instanceof CopyLostError) return false;
      throw error;
    }
    onEnded?.();
    return true;
  }

  #context() {
    const { limits, clock, appenderOf } = this.options;
    return { database: this.database, limits, clock, appenderOf, workerId: this.#workerId };
  }
}
