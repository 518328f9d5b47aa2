/**
 * Readiness: whether the parts stand that a request needs. It answers in bounded time, whatever the database does.
 */

import type { Database } from "../database/client.ts";
import { isMigrated } from "../database/migrate.ts";
import { isQueueStalled } from "./flusher.ts";
import type { Workers } from "./workers.ts";

/** How the parts stand that a request needs. */
export interface Readiness {
  readonly database: boolean;
  readonly migrations: boolean;
  /** `elsewhere`: this process has none. `stalled`: a queue does not move, whoever should flush it. */
  readonly flusher: "running" | "stalled" | "elsewhere";
}

/** A flusher that has not looked at its pools for so long is stalled: it does so every poll, or step. */
const FLUSHER_STALLED_MS = 35_000;

/** A database that takes longer to answer is not ready. */
const READINESS_MS_MAX = 2_000;

/** Looks at the database, the queues, and this process's flusher if it has one. */
export async function checkReadiness(
  database: Database,
  { flusher: worker }: Workers,
  clock: () => Date,
): Promise<Readiness> {
  const flusher = checkFlusher(worker, clock());
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), READINESS_MS_MAX);
  try {
    const migrations = await Promise.race([isMigrated(database), late.promise]);
    const stalled = migrations &&
      await Promise.race([isQueueStalled(database, clock(), FLUSHER_STALLED_MS), late.promise]);
    return {
      database: migrations !== undefined,
      migrations: migrations ?? false,
      flusher: stalled ? "stalled" : flusher,
    };
  } catch {
    // Whatever it is, no request can be served.
    return { database: false, migrations: false, flusher };
  } finally {
    clearTimeout(timer);
  }
}

function checkFlusher(flusher: Workers["flusher"], at: Date): Readiness["flusher"] {
  if (flusher === undefined) return "elsewhere";
  const sweptAt = flusher.sweptAt?.getTime() ?? -Infinity;
  return Math.abs(at.getTime() - sweptAt) < FLUSHER_STALLED_MS ? "running" : "stalled";
}
