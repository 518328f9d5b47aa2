/**
 * The reclaimer step by step, and what volumes and snapshots read, for tests that ask what space comes back.
 */

import type { Database } from "../../src/database/client.ts";
import { Reclaimer } from "../../src/storage/reclaimer.ts";
import { readStamps } from "./history.ts";
import { BLOCK_BYTES, TESTER, type TestStorage } from "./storage.ts";

const SWEEPS_MAX = 10_000;

/** Reclaims until there is nothing to do, at the time that `at` tells. */
export async function reclaimAll(database: Database, at: Date = new Date()): Promise<void> {
  const onFault = (error: unknown) => {
    throw error;
  };
  const reclaimer = new Reclaimer(database, { pollMs: 1, clock: () => at, onFault });
  for (let sweeps = 0; await reclaimer.sweep(); sweeps++) {
    if (sweeps > SWEEPS_MAX) throw new Error("Reclaiming does not end");
  }
}

/** Segments that are taken in a pool. */
export async function countTaken({ storage }: Pick<TestStorage, "storage">, pool = "main"): Promise<number> {
  const { segmentCount, freeSegments } = await storage.getPool(pool);
  return segmentCount - freeSegments;
}

/** Takes a snapshot of a volume. */
export async function take(
  { storage }: TestStorage,
  name: string,
  volume = "v",
  untilSealed = false,
): Promise<void> {
  const snapshot = { volumes: [volume], name, untilSealed };
  await storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(1e4));
}

/** The stamps of a live volume's first blocks. */
export async function readLive(
  { storage }: TestStorage,
  volume: string,
  blockCount: number,
): Promise<number[]> {
  return readStamps(await storage.readVolume(volume, undefined, { lba: 0, blockCount }), BLOCK_BYTES);
}

/** The same of a snapshot that covers one volume. */
export async function readThen(
  { storage }: TestStorage,
  snapshot: string,
  blockCount: number,
): Promise<number[]> {
  const range = { lba: 0, blockCount };
  return readStamps(await storage.readSnapshot(snapshot, undefined, undefined, range), BLOCK_BYTES);
}
