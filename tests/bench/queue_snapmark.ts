/**
 * Our own queue as the bench `queue` drives it: entries by `Storage.append()`, drained by its flusher into the block
 * tables.
 */

import type { BenchDatabase } from "./bed.ts";
import { drawLbas } from "./block_contents.ts";
import { openDirtyPool } from "./dirty_pool.ts";
import { BULK, type Queue, waitUntil } from "./queue_load.ts";

/** 128 MiB, or 2,048 slots of 16 blocks: the warm-up touches most of them, for a queue that runs touches no new ones. */
const VOLUME_BLOCKS = 32_768;
const VOLUME = "queued";

/** Makes pool `main` and a volume in a migrated database and starts a flusher. */
export async function openSnapmarkQueue({ database }: BenchDatabase): Promise<Queue> {
  const pool = await openDirtyPool(database, { flusher: true });
  try {
    await pool.createVolume(VOLUME, VOLUME_BLOCKS);
  } catch (error) {
    await pool[Symbol.asyncDispose]();
    throw error;
  }
  const shape = { blocksPerRequest: BULK.entriesPerRequest, requestsInFlight: BULK.requestsInFlight };
  return {
    choice: `Snapmark: writes of ${BULK.entriesPerRequest} single blocks at random LBAs, one flusher`,
    append: (count) => pool.append(VOLUME, drawLbas(count, VOLUME_BLOCKS), shape),
    drain: () => waitUntil(async () => await pool.countDirty() === 0),
    [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose](),
  };
}
