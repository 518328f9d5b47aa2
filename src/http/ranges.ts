/**
 * Which blocks there are, and which changed: `/volumes/{volume}/ranges`, `/snapshots/{snapshot}/ranges` and `…/changes`.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { RangePageRequest } from "../storage/range_page.ts";
import type { FoundRange } from "../storage/ranges.ts";
import type { Door, DoorApp, HttpLimits } from "./door.ts";
import {
  Count,
  jsonResponse,
  Lba,
  LbaParameter,
  NUMBER_KEY,
  pageOf,
  PageQuery,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  toPageBody,
  toPageRequest,
} from "./schema.ts";

const Range = z.object({ lba: Lba, blockCount: Count }).openapi("Range");
const ChangedRange = Range.extend({
  change: z.enum(["written", "cleared"]).openapi({ description: "Cleared blocks read as zeros" }),
}).openapi("ChangedRange");

const RangesQuery = PageQuery.extend({
  ...PoolQuery.shape,
  startLba: LbaParameter.optional(),
});
const SnapshotRangesQuery = RangesQuery.extend({
  volume: Reference.optional().openapi({ description: "Needed when the snapshot covers several" }),
});
const ChangesQuery = SnapshotRangesQuery.extend({
  base: Reference.openapi({ description: "An earlier snapshot of what this one goes back to" }),
});

const PAGES =
  "Ascending and without overlap; a page may have fewer than asked for and still be followed by one.";

const volumeRoute = createRoute({
  method: "get",
  path: "/volumes/{volume}/ranges",
  operationId: "listVolumeRanges",
  summary: "The blocks that a volume has, as ranges; all others read as zeros",
  description: PAGES,
  tags: ["blocks"],
  request: { params: z.object({ volume: Reference }), query: RangesQuery },
  responses: { 200: jsonResponse("A page of ranges", pageOf("ranges", Range)), default: PROBLEM_RESPONSE },
});

const params = z.object({ snapshot: Reference });

const snapshotRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}/ranges",
  operationId: "listSnapshotRanges",
  summary: "The blocks that a snapshot has of a volume, as ranges; all others read as zeros",
  description: PAGES,
  tags: ["snapshots"],
  request: { params, query: SnapshotRangesQuery },
  responses: { 200: jsonResponse("A page of ranges", pageOf("ranges", Range)), default: PROBLEM_RESPONSE },
});

const changesRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}/changes",
  operationId: "listSnapshotChanges",
  summary: "The blocks that were written or cleared since an earlier snapshot, as ranges",
  description: `${PAGES} The base may be of the same volume or of one that it was cloned from.`,
  tags: ["snapshots"],
  request: { params, query: ChangesQuery },
  responses: {
    200: jsonResponse("A page of ranges", pageOf("changes", ChangedRange)),
    default: PROBLEM_RESPONSE,
  },
});

export function registerRanges(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(volumeRoute, async (c) => {
    const query = c.req.valid("query");
    const { volume } = c.req.valid("param");
    const page = await storage.listVolumeRanges(volume, query.pool, toRangePage(query, limits));
    return c.json(toPageBody("ranges", page, toRange), 200);
  });

  app.openapi(snapshotRoute, async (c) => {
    const query = c.req.valid("query");
    const { snapshot } = c.req.valid("param");
    const request = toRangePage(query, limits);
    const page = await storage.listSnapshotRanges(snapshot, query.pool, query.volume, request);
    return c.json(toPageBody("ranges", page, toRange), 200);
  });

  app.openapi(changesRoute, async (c) => {
    const query = c.req.valid("query");
    const { snapshot } = c.req.valid("param");
    const request = toRangePage(query, limits);
    const page = await storage.listChanges(snapshot, query.pool, query.volume, query.base, request);
    return c.json(toPageBody("changes", page, toChange), 200);
  });
}

/** A page token goes on from its LBA, wherever the list was asked to start. */
function toRangePage(query: z.output<typeof RangesQuery>, limits: HttpLimits): RangePageRequest {
  const { after, itemsMax } = toPageRequest(query, limits, NUMBER_KEY);
  const startLba = after === undefined ? query.startLba ?? 0 : Number(after);
  return { startLba, itemsMax };
}

function toRange({ lba, blockCount }: FoundRange): z.input<typeof Range> {
  return { lba, blockCount };
}

function toChange({ lba, blockCount, cleared }: FoundRange): z.input<typeof ChangedRange> {
  return { lba, blockCount, change: cleared ? "cleared" : "written" };
}
