/**
 * The space counter: a worker that counts what snapshots hold alone, where something has happened that may have changed it.
 *
 * It locks nothing that anybody waits for, and rests nine times as long as it worked, so a count is a tenth of a core at most. A count
 * that it was stopped at is begun again.
 */

import { type Database, transact } from "../database/client.ts";
import { SweepingWorker } from "./background_worker.ts";
import type { Pool } from "./pool.ts";
import { takeUncounted } from "./space.ts";
import { countSpace, listDueCounts } from "./space_count.ts";
import { markChanged } from "./space_change.ts";

/** Epochs, and snapshots, that one round takes of each pool. */
const EPOCHS_MAX = 64;
const SNAPSHOTS_MAX = 64;

/** Rest for each millisecond of work. */
const REST_SHARE = 9;

export interface SpaceCounterOptions {
  /** How long it waits when there is nothing to do, or after a fault. */
  readonly pollMs: number;
  readonly clock: () => Date;
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
}

async function selectPools({ $client }: Database): Promise<Pool[]> {
  return await $client<Pool[]>`
    select pool_id as "poolId", name, block_size_bytes as "blockSizeBytes", segment_blocks as "segmentBlocks",
      cache_bytes_max as "cacheBytesMax"
    from pools p
    where exists (select from epoch_space e where e.pool_id = p.pool_id and not e.counted)
      or exists (select from snapshot_space x where x.pool_id = p.pool_id and x.changed > x.counted)`;
}

export class SpaceCounter extends SweepingWorker {
  constructor(private readonly database: Database, private readonly options: SpaceCounterOptions) {
    const { pollMs, onFault } = options;
    super({ pollMs, restShare: REST_SHARE, restMsMin: pollMs, onFault });
  }

  /** Looks at each pool once; answers whether any had something to count. */
  async sweep(): Promise<boolean> {
    const pools = await selectPools(this.database);
    for (const pool of pools) {
      await this.#mark(pool);
      await this.#count(pool);
      if (this.loop.isStopping) break;
    }
    return pools.length > 0;
  }

  async #mark({ poolId }: Pool): Promise<void> {
    for (let epochs = 0; epochs < EPOCHS_MAX; epochs++) {
      const point = await transact(this.database, async (tx) => {
        const taken = await takeUncounted(tx, poolId);
        if (taken !== undefined) await markChanged(tx, poolId, taken);
        return taken;
      });
      if (point === undefined || this.loop.isStopping) return;
    }
  }

  async #count(pool: Pool): Promise<void> {
    for (const due of await listDueCounts(this.database, pool.poolId, SNAPSHOTS_MAX)) {
      await countSpace(this.database, pool, due, this.options.clock(), () => this.loop.isStopping);
      if (this.loop.isStopping) return;
    }
  }
}
