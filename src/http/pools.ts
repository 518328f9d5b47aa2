/**
 * `/pools`: storage systems, how they stand, and their queues.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { MARKER_PAYLOAD, type QueuedEntry } from "../storage/cache.ts";
import type { PoolStatus } from "../storage/pool.ts";
import { type Door, type DoorApp, toActor, whileConnected } from "./door.ts";
import { HttpError } from "./errors.ts";
import { CacheMode, FlushPolicy, FlushPolicyInput, WriteVerifier } from "./pool_settings.ts";
import {
  Count,
  given,
  Id,
  ID_KEY,
  jsonBody,
  jsonResponse,
  Lba,
  Moment,
  Name,
  NoQuery,
  NUMBER_KEY,
  pageOf,
  PageQuery,
  PROBLEM_RESPONSE,
  Reference,
  Sequence,
  toPageBody,
  toPageRequest,
} from "./schema.ts";

const KIB = 1024;

const Pool = z.object({
  id: Id,
  name: Name,
  blockSizeBytes: Count,
  segmentBlocks: Count,
  cacheBytesMax: Count.openapi({ description: "Writes are refused while the cache holds more" }),
  cacheMode: CacheMode,
  flushPolicy: FlushPolicy,
  writeVerifier: WriteVerifier,
  deviceCount: Count,
  capacityBytes: Count.openapi({ description: "All devices together" }),
  segmentCount: Count,
  freeSegments: Count,
  mappedBytes: Count.openapi({ description: "Segments taken, in bytes: what devices run out of" }),
  dirtyEntries: Count.openapi({ description: "Entries in the cache, markers included" }),
  dirtyBytes: Count.openapi({ description: "Data in the cache" }),
  sequenceAppended: Sequence.openapi({ description: "Sequence of the newest entry" }),
  sequenceFlushed: Sequence.openapi({ description: "No entry at or below it is left in the cache" }),
  createdAt: Moment,
}).openapi("Pool");

const NewPool = z.strictObject({
  name: Name,
  blockSizeBytes: z.int().optional().openapi({
    description: "A power of two, 512 to 65,536; by default 4,096",
  }),
  segmentBlocks: z.int().optional().openapi({
    description: "A power of two; by default as many blocks as make 64 KiB, at least one",
  }),
  cacheBytesMax: z.int().optional(),
  cacheMode: CacheMode.optional().openapi({ description: "By default write-back" }),
  flushPolicy: FlushPolicyInput.optional().openapi({ description: "By default at once" }),
}).openapi("NewPool");

const PoolChange = z.strictObject({
  cacheMode: CacheMode.optional(),
  flushPolicy: FlushPolicyInput.optional(),
}).openapi("PoolChange");

const Entry = z.object({
  sequence: Sequence,
  kind: z.enum(["write", "trim", "marker"]),
  clientId: Id,
  priority: z.int(),
  volumeId: Id.optional(),
  lba: Lba.optional(),
  blockCount: Count,
  sizeBytes: Count,
  payload: z.string().optional().openapi({ description: "Of a marker", example: "$$$$$SNAPSHOTMARKER****." }),
  appendedAt: Moment,
  ageSeconds: z.number(),
}).openapi("CacheEntry");

const params = z.object({ pool: Reference });

const listRoute = createRoute({
  method: "get",
  path: "/pools",
  operationId: "listPools",
  summary: "List the pools",
  tags: ["pools"],
  request: { query: PageQuery },
  responses: { 200: jsonResponse("A page of pools", pageOf("pools", Pool)), default: PROBLEM_RESPONSE },
});

const addRoute = createRoute({
  method: "post",
  path: "/pools",
  operationId: "createPool",
  summary: "Create a pool",
  description: "The pool has no room until a device is added to it.",
  tags: ["pools"],
  request: { query: NoQuery, ...jsonBody(NewPool) },
  responses: { 201: jsonResponse("The pool", Pool), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/pools/{pool}",
  operationId: "getPool",
  summary: "How a pool stands",
  tags: ["pools"],
  request: { params, query: NoQuery },
  responses: { 200: jsonResponse("The pool", Pool), default: PROBLEM_RESPONSE },
});

const changeRoute = createRoute({
  method: "patch",
  path: "/pools/{pool}",
  operationId: "changePool",
  summary: "Change how a pool's cache takes writes, or when it is flushed",
  description:
    "Every process obeys it: a cache mode with its next write, a flush policy a tenth of a second later.",
  tags: ["pools"],
  request: { params, query: NoQuery, ...jsonBody(PoolChange) },
  responses: { 200: jsonResponse("The pool", Pool), default: PROBLEM_RESPONSE },
});

const cacheRoute = createRoute({
  method: "get",
  path: "/pools/{pool}/cache",
  operationId: "listCache",
  summary: "The queue as it stands, oldest first, without data",
  tags: ["pools"],
  request: { params, query: PageQuery },
  responses: {
    200: jsonResponse("A page of the queue", pageOf("entries", Entry)),
    default: PROBLEM_RESPONSE,
  },
});

const flushRoute = createRoute({
  method: "post",
  path: "/pools/{pool}/flush",
  operationId: "flushPool",
  summary: "Wait until all that was appended so far is flushed (SYNCHRONIZE CACHE)",
  tags: ["pools"],
  request: { params, query: NoQuery },
  responses: {
    200: jsonResponse(
      "The position reached",
      z.object({ sequenceFlushed: Sequence, writeVerifier: WriteVerifier }),
    ),
    default: PROBLEM_RESPONSE,
  },
});

export function registerPools(app: DoorApp, door: Door): void {
  const { storage, limits } = door;

  app.openapi(listRoute, async (c) => {
    const page = await storage.listPools(toPageRequest(c.req.valid("query"), limits, ID_KEY));
    return c.json(toPageBody("pools", page, toBody), 200);
  });

  app.openapi(addRoute, async (c) => {
    const { name, blockSizeBytes = 4 * KIB, segmentBlocks, cacheBytesMax, ...settings } = c.req.valid("json");
    const pool = await storage.createPool(toActor(c), {
      name,
      blockSizeBytes,
      segmentBlocks: segmentBlocks ?? Math.max(1, 64 * KIB / blockSizeBytes),
      cacheBytesMax: cacheBytesMax ?? door.cacheBytesMax,
      ...given(settings),
    });
    return c.json(toBody(await storage.getPool(pool.poolId)), 201, { location: `/pools/${pool.poolId}` });
  });

  app.openapi(getRoute, async (c) => c.json(toBody(await storage.getPool(c.req.valid("param").pool)), 200));

  app.openapi(changeRoute, async (c) => {
    const change = given(c.req.valid("json"));
    if (Object.keys(change).length === 0) {
      throw new HttpError("invalid-request", "Cannot change the pool: the request names nothing to change");
    }
    return c.json(toBody(await storage.changePool(toActor(c), c.req.valid("param").pool, change)), 200);
  });

  app.openapi(cacheRoute, async (c) => {
    const request = toPageRequest(c.req.valid("query"), limits, NUMBER_KEY);
    const page = await storage.listCache(c.req.valid("param").pool, request);
    const now = Date.now();
    return c.json(toPageBody("entries", page, (entry) => toEntryBody(entry, now)), 200);
  });

  app.openapi(
    flushRoute,
    async (c) => c.json(await storage.flushPool(c.req.valid("param").pool, whileConnected(c, door)), 200),
  );
}

/** A pool as the wire shows it. */
export function toBody({ poolId, createdAt, ...pool }: PoolStatus): z.input<typeof Pool> {
  return { id: poolId, ...pool, createdAt: createdAt.toISOString() };
}

function toEntryBody(entry: QueuedEntry, now: number): z.input<typeof Entry> {
  return {
    ...entry,
    ...(entry.kind === "marker" ? { payload: new TextDecoder().decode(MARKER_PAYLOAD) } : {}),
    appendedAt: entry.appendedAt.toISOString(),
    ageSeconds: Math.max(0, now - entry.appendedAt.getTime()) / 1000,
  };
}
