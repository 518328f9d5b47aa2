/**
 * The digester: a worker that reads sealed snapshots as a whole, step by step ({@linkcode Digestion}): once each for its digest, and
 * again where somebody asks whether the blocks are still what the digest says.
 *
 * What one was at is taken up by another when its lease is over, or at once when it was stopped. Nobody waits for it, so between two
 * rounds it rests four times as long as the round took.
 */

import type { Database } from "../database/client.ts";
import { SweepingWorker } from "./background_worker.ts";
import { finishDigest } from "./contents_digest.ts";
import { extendDigest, openCovered } from "./digested_contents.ts";
import {
  claimDigestions,
  type Digestion,
  DigestionLostError,
  dropDigestion,
  endVolume,
  type FoundVolume,
  moveDigestion,
  releaseDigestions,
} from "./digestion.ts";
import { PASSING_FAULTS, toStorageError } from "./fault.ts";
import { createId } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import { type Observer, UNOBSERVED } from "./observer.ts";
import { getPool } from "./pool.ts";
import { getCovered } from "./snapshot.ts";

export interface DigesterOptions {
  readonly limits: Pick<StorageLimits, "digestStepBytes" | "digestLeaseMs" | "digestPollMs">;
  readonly clock: () => Date;
  /** Told of a fault, and of a snapshot that is damaged; it goes on. */
  readonly onFault: (error: unknown) => void;
  readonly observer?: Observer;
}

/** Rest for each millisecond of work. */
const REST_SHARE = 4;

/** A step's outcome: it goes on inside the volume, or the volume is through. */
type StepOutcome = { readonly position: number; readonly chain: Uint8Array } | FoundVolume;

export class Digester extends SweepingWorker {
  readonly #workerId = createId();

  constructor(private readonly database: Database, private readonly options: DigesterOptions) {
    const { limits: { digestPollMs: pollMs }, onFault } = options;
    super({ pollMs, restShare: REST_SHARE, onFault });
  }

  /** Ends after the step in hand, and leaves its jobs to others. */
  override async stop(): Promise<void> {
    await super.stop();
    try {
      await releaseDigestions(this.database, this.#workerId);
    } catch (error) {
      // Their leases run out.
      this.options.onFault(error);
    }
  }

  /** One step of each job that it has; answers whether any went on. */
  async sweep(): Promise<boolean> {
    const { clock, limits: { digestLeaseMs } } = this.options;
    let progressed = false;
    for (const digestion of await claimDigestions(this.database, this.#workerId, clock(), digestLeaseMs)) {
      if (this.loop.isStopping) break;
      progressed = await this.#step(digestion) || progressed;
    }
    return progressed;
  }

  async #step(digestion: Digestion): Promise<boolean> {
    try {
      const outcome = await this.#read(digestion);
      if (outcome === "passing") return false;
      if (outcome === "gone") await dropDigestion(this.database, digestion);
      else if (outcome !== undefined && "position" in outcome) {
        await moveDigestion(this.database, digestion, this.#workerId, outcome);
      } else await this.#end(digestion, outcome);
      return true;
    } catch (error) {
      if (error instanceof DigestionLostError) return false;
      throw error;
    }
  }

  /** What cannot be read is a finding too. */
  async #read(digestion: Digestion): Promise<StepOutcome | "passing" | "gone" | undefined> {
    try {
      return await this.#extend(digestion);
    } catch (error) {
      const known = toStorageError(error);
      if (known?.code === "snapshot-not-found") return "gone";
      const goesBy = known !== undefined && PASSING_FAULTS.has(known.code);
      // Known damage is told when the snapshot is through.
      if (known === undefined || goesBy) this.options.onFault(error);
      if (goesBy) return "passing";
      return { fault: known?.message ?? "The server failed at reading it; its log has the details" };
    }
  }

  async #extend(
    { poolId, snapshotId, volumeId, position, chain }: Digestion,
  ): Promise<StepOutcome | undefined> {
    if (volumeId === undefined) return undefined;
    const { limits: { digestStepBytes }, observer = UNOBSERVED } = this.options;
    const pool = await getPool(this.database, poolId);
    const covered = await getCovered(this.database, poolId, snapshotId, volumeId);
    const contents = await openCovered(this.database, pool, snapshotId, covered);
    const extended = await extendDigest(contents, position, chain, digestStepBytes);
    observer.digested(extended.bytes);
    if (extended.next !== undefined) return { position: extended.next, chain: extended.chain };
    return { digest: await finishDigest(extended.chain, covered.volumeBlocks * pool.blockSizeBytes) };
  }

  async #end(digestion: Digestion, found: FoundVolume | undefined): Promise<void> {
    const { clock, onFault } = this.options;
    const faults = await endVolume(this.database, digestion, this.#workerId, found, clock());
    if (faults === undefined || faults.length === 0) return;
    const told = faults.map(({ volumeId, detail }) =>
      volumeId === undefined ? detail : `${volumeId}: ${detail}`
    );
    onFault(new Error(`Cannot vouch for snapshot ${digestion.snapshotId}: ${told.join("; ")}`));
  }
}
