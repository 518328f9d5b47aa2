/**
 * The reclaimer: a worker that takes reclaim steps, one in each pool that has something to reclaim, as long as there is; and
 * drops what was staged by who is gone.
 *
 * Between two steps it rests four times as long as the step took, so it takes a fifth of what a pool's tail and a processor
 * can do, and whoever writes hardly notices it.
 */

import { type Database, transact } from "../database/client.ts";
import { SweepingWorker } from "./background_worker.ts";
import { type Observer, UNOBSERVED } from "./observer.ts";
import { reclaimStep } from "./reclaim.ts";
import { dropOverdueStagings } from "./staging.ts";

/** Rest for each millisecond of work. */
const REST_SHARE = 4;

export interface ReclaimerOptions {
  /** How long it waits when there is nothing to do, or after a fault. */
  readonly pollMs: number;
  readonly clock: () => Date;
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
  readonly observer?: Observer;
}

async function selectPools({ $client }: Database): Promise<string[]> {
  const rows = await $client<{ pool_id: string }[]>`
    select pool_id from pools p where exists (select from reclaims r where r.pool_id = p.pool_id)`;
  return rows.map((row) => row.pool_id);
}

export class Reclaimer extends SweepingWorker {
  constructor(private readonly database: Database, private readonly options: ReclaimerOptions) {
    const { pollMs, onFault } = options;
    super({ pollMs, restShare: REST_SHARE, restMsMax: pollMs, onFault });
  }

  /** One step in each pool; answers whether any did something. */
  async sweep(): Promise<boolean> {
    const { observer = UNOBSERVED } = this.options;
    let progressed = await dropOverdueStagings(this.database, this.options.clock());
    for (const poolId of await selectPools(this.database)) {
      if (this.loop.isStopping) break;
      const step = await transact(this.database, (tx) => reclaimStep(tx, poolId, this.options.clock()));
      observer.reclaimed(step.segmentsReturned);
      progressed ||= !step.idle;
    }
    return progressed;
  }
}
