/**
 * The reclaimer step by step, for tests that ask what space comes back.
 */

import type { Database } from "../../src/database/client.ts";
import { Reclaimer } from "../../src/storage/reclaimer.ts";
import type { TestStorage } from "./storage.ts";

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
