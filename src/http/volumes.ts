/**
 * `/volumes`: virtual drives and their segment maps. Their blocks are in `blocks.ts`.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Volume as StorageVolume } from "../storage/volume.ts";
import { type Door, type DoorApp, toActor, withinOf } from "./door.ts";
import { HttpError } from "./errors.ts";
import {
  Count,
  given,
  Id,
  ID_KEY,
  jsonBody,
  jsonResponse,
  LabelQuery,
  Labels,
  LabelsPatch,
  Moment,
  Name,
  NoQuery,
  pageOf,
  PageQuery,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  Sequence,
  SizeFields,
  SLOT_KEY,
  toOptionalSize,
  toPageBody,
  toPageRequest,
  toSize,
} from "./schema.ts";

/** How many snapshots a volume may have. */
export const SnapshotsMax = z.int().min(1).max(1_000_000_000).nullable().openapi({
  description: "How many snapshots the volume may have; null for any number",
});

export const Volume = z.object({
  id: Id,
  name: Name,
  poolId: Id,
  blockSizeBytes: Count,
  blockCount: Count,
  sizeBytes: Count,
  mappedBytes: Count.openapi({
    description: "Segments that it has taken, in bytes, those included that only its snapshots still read",
  }),
  timelineId: Count,
  snapshotsMax: SnapshotsMax,
  labels: Labels,
  createdAt: Moment,
}).openapi("Volume");

const NewVolume = z.strictObject({
  name: Name,
  pool: Reference.optional().openapi({ description: "By default `main`, or the source's" }),
  ...SizeFields,
  labels: Labels.optional(),
  source: z.strictObject({
    snapshot: Reference,
    volume: Reference.optional().openapi({ description: "Needed when the snapshot covers several" }),
  }).optional().openapi({ description: "A snapshot to clone; the size then is its, or larger" }),
}).openapi("NewVolume", {
  description: "Either `sizeBytes` or `blockCount`; it may exceed all physical space",
});

const Revert = z.strictObject({
  snapshot: Reference.openapi({ description: "What to go back to; it covers the whole volume" }),
  safetySnapshot: z.boolean().default(true).openapi({
    description: "Take a snapshot of how the volume stands, in the same moment",
  }),
  safetyName: Name.optional().openapi({ description: "That snapshot's name" }),
}).openapi("Revert");

const Reverted = z.object({
  volume: Volume,
  sequence: Sequence.openapi({
    description: "Writes with a sequence up to it were given up, later ones are in the volume",
  }),
  safetySnapshotId: Id.optional(),
}).openapi("Reverted");

const VolumeChange = z.strictObject({
  ...SizeFields,
  labels: LabelsPatch.optional(),
  snapshotsMax: SnapshotsMax.optional(),
}).openapi("VolumeChange", {
  description: "Either `sizeBytes` or `blockCount`, `labels`, `snapshotsMax`, or several of them",
});

const MappedSlot = z.object({
  timelineId: Count,
  slot: Count.openapi({ description: "Index of the segment-sized run in the volume" }),
  epoch: Count,
  segmentId: Count,
  deviceId: Id,
}).openapi("MappedSlot");

const params = z.object({ volume: Reference });

const createVolumeRoute = createRoute({
  method: "post",
  path: "/volumes",
  operationId: "createVolume",
  summary: "Create a volume, which reads as zeros or is a clone",
  description: "A clone is writable at once, nothing is copied, and its snapshot need not be sealed.",
  tags: ["volumes"],
  request: { query: NoQuery, ...jsonBody(NewVolume) },
  responses: { 201: jsonResponse("The volume", Volume), default: PROBLEM_RESPONSE },
});

const listRoute = createRoute({
  method: "get",
  path: "/volumes",
  operationId: "listVolumes",
  summary: "List the volumes",
  tags: ["volumes"],
  request: { query: PageQuery.extend(PoolQuery.shape).extend(LabelQuery.shape) },
  responses: { 200: jsonResponse("A page of volumes", pageOf("volumes", Volume)), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/volumes/{volume}",
  operationId: "getVolume",
  summary: "A volume",
  tags: ["volumes"],
  request: { params, query: PoolQuery },
  responses: { 200: jsonResponse("The volume", Volume), default: PROBLEM_RESPONSE },
});

const changeRoute = createRoute({
  method: "patch",
  path: "/volumes/{volume}",
  operationId: "changeVolume",
  summary: "Grow a volume, label it, bound its snapshots, or several at once; new blocks read as zeros",
  tags: ["volumes"],
  request: { params, query: PoolQuery, ...jsonBody(VolumeChange) },
  responses: { 200: jsonResponse("The volume", Volume), default: PROBLEM_RESPONSE },
});

const deleteRoute = createRoute({
  method: "delete",
  path: "/volumes/{volume}",
  operationId: "deleteVolume",
  summary: "Delete a volume; its snapshots stay",
  tags: ["volumes"],
  request: { params, query: PoolQuery },
  responses: { 204: { description: "Deleted" }, default: PROBLEM_RESPONSE },
});

const revertRoute = createRoute({
  method: "post",
  path: "/volumes/{volume}/revert",
  operationId: "revertVolume",
  summary: "Go on from what a snapshot has of the volume",
  description:
    "At once, whatever its size. Snapshots taken since then stay; the volume has the size it had then.",
  tags: ["volumes"],
  request: { params, query: PoolQuery, ...jsonBody(Revert) },
  responses: {
    200: jsonResponse("The volume, and where in the queue that was", Reverted),
    default: PROBLEM_RESPONSE,
  },
});

const segmentsRoute = createRoute({
  method: "get",
  path: "/volumes/{volume}/segments",
  operationId: "listVolumeSegments",
  summary: "The volume's segment map, by slot and epoch",
  tags: ["volumes"],
  request: { params, query: PageQuery.extend(PoolQuery.shape) },
  responses: {
    200: jsonResponse("A page of the map", pageOf("segments", MappedSlot)),
    default: PROBLEM_RESPONSE,
  },
});

export function registerVolumes(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(createVolumeRoute, async (c) => {
    const { name, pool, labels, source, ...size } = c.req.valid("json");
    const place = { name, ...given({ pool, labels }) };
    const volume = source === undefined
      ? await storage.createVolume(toActor(c), { ...place, ...toSize(size) })
      : await storage.cloneVolume(toActor(c), { ...place, ...given(source), ...toOptionalSize(size) });
    return c.json(toBody(volume), 201, { location: `/volumes/${volume.volumeId}` });
  });

  app.openapi(listRoute, async (c) => {
    const query = c.req.valid("query");
    const request = toPageRequest(query, limits, ID_KEY);
    const page = await storage.listVolumes(query.pool, request, query.label, withinOf(c));
    return c.json(toPageBody("volumes", page, toBody), 200);
  });

  app.openapi(getRoute, async (c) => {
    const volume = await storage.getVolume(c.req.valid("param").volume, c.req.valid("query").pool);
    return c.json(toBody(volume), 200);
  });

  app.openapi(changeRoute, async (c) => {
    const { pool } = c.req.valid("query");
    const { labels, snapshotsMax, ...size } = c.req.valid("json");
    const hasOther = labels !== undefined || snapshotsMax !== undefined;
    const change = {
      ...(hasOther ? toOptionalSize(size) : toSize(size)),
      ...given({ labels, snapshotsMax }),
    };
    const volume = await storage.changeVolume(toActor(c), c.req.valid("param").volume, pool, change);
    return c.json(toBody(volume), 200);
  });

  app.openapi(deleteRoute, async (c) => {
    await storage.deleteVolume(toActor(c), c.req.valid("param").volume, c.req.valid("query").pool);
    return c.body(null, 204);
  });

  app.openapi(revertRoute, async (c) => {
    const { snapshot, safetySnapshot, safetyName } = c.req.valid("json");
    if (!safetySnapshot && safetyName !== undefined) {
      throw new HttpError("invalid-request", "Cannot name a safety snapshot that is not to be taken");
    }
    const safety = safetySnapshot ? given({ name: safetyName }) : undefined;
    const { volume, sequence, safetySnapshotId } = await storage.revertVolume(
      toActor(c),
      c.req.valid("param").volume,
      c.req.valid("query").pool,
      snapshot,
      safety,
    );
    return c.json({ volume: toBody(volume), sequence, ...given({ safetySnapshotId }) }, 200);
  });

  app.openapi(segmentsRoute, async (c) => {
    const query = c.req.valid("query");
    const request = toPageRequest(query, limits, SLOT_KEY);
    const page = await storage.listVolumeSegments(c.req.valid("param").volume, query.pool, request);
    return c.json(toPageBody("segments", page, (segment) => segment), 200);
  });
}

/** A volume as the wire shows it. */
export function toBody(
  { volumeId, name, blockCount, timelineId, mappedSegments, snapshotsMax, labels, createdAt, pool }:
    StorageVolume,
): z.input<typeof Volume> {
  const { poolId, blockSizeBytes, segmentBlocks } = pool;
  return {
    id: volumeId,
    name,
    poolId,
    blockSizeBytes,
    blockCount,
    sizeBytes: blockCount * blockSizeBytes,
    mappedBytes: mappedSegments * segmentBlocks * blockSizeBytes,
    timelineId,
    snapshotsMax: snapshotsMax ?? null,
    labels,
    createdAt: createdAt.toISOString(),
  };
}
