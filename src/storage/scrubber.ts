/**
 * The scrubber: a worker that takes steps of scrubs, one of each that is running, as long as there are any.
 *
 * Between two rounds it rests four times as long as the round took, so whoever writes or reads hardly notices it.
 */

import { type Database, transact } from "../database/client.ts";
import { SweepingWorker } from "./background_worker.ts";
import type { StorageLimits } from "./limits.ts";
import { type ScrubbedDevice, scrubStep } from "./scrub_step.ts";

/** Rest for each millisecond of work. */
const REST_SHARE = 4;
/** Devices of one round; those that are left come when these are through. */
const DEVICES_MAX = 16;

export interface ScrubberOptions {
  readonly limits: Pick<StorageLimits, "scrubStepBytes" | "scrubProgressMs" | "scrubPollMs">;
  readonly clock: () => Date;
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
}

async function selectRunning({ $client }: Database): Promise<ScrubbedDevice[]> {
  const rows = await $client<{ pool_id: string; device_id: string }[]>`
    select pool_id, device_id from scrubs where status = 'running'
    order by pool_id, device_id limit ${DEVICES_MAX}`;
  return rows.map((row) => ({ poolId: row.pool_id, deviceId: row.device_id }));
}

export class Scrubber extends SweepingWorker {
  constructor(private readonly database: Database, private readonly options: ScrubberOptions) {
    const { limits: { scrubPollMs: pollMs }, onFault } = options;
    super({ pollMs, restShare: REST_SHARE, onFault });
  }

  /** One step of each scrub that is running; answers whether any went on. */
  async sweep(): Promise<boolean> {
    const { limits, clock } = this.options;
    let progressed = false;
    for (const device of await selectRunning(this.database)) {
      if (this.loop.isStopping) break;
      const went = await transact(this.database, (tx) => scrubStep(tx, device, { limits, at: clock() }));
      progressed ||= went;
    }
    return progressed;
  }
}
