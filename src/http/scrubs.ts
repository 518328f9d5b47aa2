/**
 * `/devices/{device}/scrub`: all blocks of a device compared with their checksums, in the background.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Scrub as StorageScrub } from "../storage/scrub.ts";
import { type Door, type DoorApp, toActor } from "./door.ts";
import {
  Count,
  Id,
  jsonResponse,
  Lba,
  Moment,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  Sequence,
} from "./schema.ts";

/** Where a corrupt block was found. */
export const CorruptBlock = z.object({
  segmentId: Count,
  block: Count.openapi({ description: "Its index in the segment" }),
  sequence: Sequence,
  fault: z.string(),
  volumeId: Id.optional().openapi({ description: "Whose history it is of; clones of it may read it too" }),
  lba: Lba.optional().openapi({ description: "Its index there" }),
}).openapi("CorruptBlock");

/** How a scrub has ended. */
export const ScrubEnd = z.enum(["done", "cancelled"]);

/** What was counted of blocks. */
export const BlockCounts = z.object({
  blocksChecked: Count.openapi({ description: "Blocks that have a checksum" }),
  blocksUnchecked: Count.openapi({ description: "Blocks that were written before there were checksums" }),
  blocksCorrupt: Count,
});

const Scrub = z.object({
  id: Id,
  deviceId: Id,
  poolId: Id,
  status: z.enum(["running", ...ScrubEnd.options]),
  segmentsDone: Count.openapi({ description: "Segments that it is past" }),
  segmentsTotal: Count.openapi({ description: "Segments of the device that were ever taken" }),
  ...BlockCounts.shape,
  corrupt: z.array(CorruptBlock).openapi({ description: "The first hundred" }),
  startedAt: Moment,
  endedAt: Moment.optional(),
}).openapi("Scrub");

const request = { params: z.object({ device: Reference }), query: PoolQuery };

const startRoute = createRoute({
  method: "post",
  path: "/devices/{device}/scrub",
  operationId: "startScrub",
  summary: "Compare all blocks of a device with their checksums, in the background",
  description:
    "Answers the scrub that is running, if one is. What it finds is told, here and by events, and left as it is.",
  tags: ["devices"],
  request,
  responses: { 202: jsonResponse("The scrub that is running now", Scrub), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/devices/{device}/scrub",
  operationId: "getScrub",
  summary: "The scrub that a device is in, or its last one",
  tags: ["devices"],
  request,
  responses: { 200: jsonResponse("The scrub", Scrub), default: PROBLEM_RESPONSE },
});

const cancelRoute = createRoute({
  method: "delete",
  path: "/devices/{device}/scrub",
  operationId: "cancelScrub",
  summary: "End a scrub before it is through; one that has ended stays as it is",
  tags: ["devices"],
  request,
  responses: { 200: jsonResponse("The scrub as it stands now", Scrub), default: PROBLEM_RESPONSE },
});

export function registerScrubs(app: DoorApp, { storage }: Door): void {
  app.openapi(startRoute, async (c) => {
    const { device } = c.req.valid("param");
    return c.json(toBody(await storage.startScrub(toActor(c), device, c.req.valid("query").pool)), 202);
  });

  app.openapi(getRoute, async (c) => {
    const { device } = c.req.valid("param");
    return c.json(toBody(await storage.getScrub(device, c.req.valid("query").pool)), 200);
  });

  app.openapi(cancelRoute, async (c) => {
    const { device } = c.req.valid("param");
    return c.json(toBody(await storage.cancelScrub(toActor(c), device, c.req.valid("query").pool)), 200);
  });
}

function toBody({ scrubId, startedAt, endedAt, ...scrub }: StorageScrub): z.input<typeof Scrub> {
  return {
    id: scrubId,
    ...scrub,
    startedAt: startedAt.toISOString(),
    ...(endedAt === undefined ? {} : { endedAt: endedAt.toISOString() }),
  };
}
