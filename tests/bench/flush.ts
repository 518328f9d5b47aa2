/**
 * `flush`: how fast the flusher drains a queue of single blocks, against the bare `insert … select` of the same rows.
 *
 * Both stand in one fresh database: the queue is filled with the flusher off, its rows are copied into a bare table, and
 * each contender starts after a checkpoint. The limit dedupes nothing, deletes nothing and commits once.
 */

import { copyCache, createBareTables, insertSelect } from "./bare_tables.ts";
import type { Bed } from "./bed.ts";
import type { Bench, Sample } from "./bench.ts";
import { drawLbas } from "./block_contents.ts";
import { openDirtyPool } from "./dirty_pool.ts";
import { timeSeconds } from "./stopwatch.ts";

/** 1 GiB. */
const VOLUME_BLOCKS = 262_144;
const DIRTY_BLOCKS = 100_000;
const DIRTY_BLOCKS_QUICK = 4_000;
/** 1 MiB a request, eight of them waiting: the fill is not measured. */
const FILL = { blocksPerRequest: 256, requestsInFlight: 8 };

export const flushBench: Bench = {
  name: "flush",
  rows: [{
    name: "flush",
    measured: "100,000 dirty 4 KiB blocks drained",
    against: "bare insert … select of the same rows",
    unit: "blocks/s",
    goal: { atLeast: 0.7, aim: 0.9 },
  }],
  open: (bed) =>
    Promise.resolve({
      repeat: async () => [await compare(bed)],
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
};

async function compare(bed: Bed): Promise<Sample> {
  const blockCount = bed.scaled(DIRTY_BLOCKS, DIRTY_BLOCKS_QUICK);
  await using bench = await bed.createDatabase({ migrated: true });
  const { database } = bench;
  await using pool = await openDirtyPool(database);
  await pool.createVolume("flushed", VOLUME_BLOCKS);
  await pool.append("flushed", drawLbas(blockCount, VOLUME_BLOCKS), FILL);
  await createBareTables(database);
  requireCount("copy", blockCount, await copyCache(database));
  await bed.settle(bench);
  const drainSeconds = await timeSeconds(() => pool.drain());
  requireCount("drain", 0, await pool.countDirty());
  await bed.settle(bench);
  const insertSeconds = await timeSeconds(() => insertSelect(database));
  return { row: "flush", measured: blockCount / drainSeconds, against: blockCount / insertSeconds };
}

function requireCount(verb: string, expected: number, found: number): void {
  if (found !== expected) {
    throw new Error(`Cannot ${verb} the queue: expected ${expected} entries, found ${found}`);
  }
}
