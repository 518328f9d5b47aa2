/**
 * How a pool's queue is kept, as the wire shows it: in pools, in requests, and in events.
 */

import { z } from "@hono/zod-openapi";
import { CACHE_MODES } from "../storage/cache_mode.ts";

export const CacheMode = z.enum(CACHE_MODES).openapi("CacheMode", {
  description:
    "When a write is answered: durably in the cache (`write-back`), or before its commit has reached the disk " +
    "(`write-back-relaxed`: a crash loses what was answered last, never a middle), or durably past the cache " +
    "(`write-through`: a snapshot is sealed in its own answer)",
});

export const WriteVerifier = z.string().openapi({
  description:
    "Another one after a crash of the database, which may have lost relaxed writes; zeros until the first " +
    "write behind it",
});

const AtOnce = z.strictObject({ kind: z.literal("at-once") });
const Interval = z.strictObject({
  kind: z.literal("interval"),
  intervalMs: z.int().openapi({ description: "How long an entry waits; 100 to 600,000" }),
});
const Threshold = z.strictObject({
  kind: z.literal("threshold"),
  dirtyBytes: z.int().openapi({ description: "One block to 40 % of the cache's bound" }),
  maxAgeMs: z.int().openapi({ description: "How long an entry waits at most; 100 to 600,000" }),
});

/** A policy as it is. */
export const FlushPolicy = z.discriminatedUnion("kind", [AtOnce, Interval, Threshold]).openapi(
  "FlushPolicy",
  {
    description: "When entries are flushed that nobody waits for: at once, after a time, or from a depth on",
  },
);

/** A policy as it is asked for. */
export const FlushPolicyInput = z.discriminatedUnion("kind", [
  AtOnce,
  Interval,
  Threshold.extend({ maxAgeMs: Threshold.shape.maxAgeMs.optional() }),
]).openapi("NewFlushPolicy", { description: "`maxAgeMs` is 60,000 unless given" });
