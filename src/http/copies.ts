/**
 * `/snapshots/{snapshot}/copies` and `/copies`: snapshots on their way into other pools.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { type Copy as StorageCopy, COPY_PHASES } from "../storage/copy.ts";
import { type Door, type DoorApp, toActor } from "./door.ts";
import {
  Count,
  Digest,
  given,
  Id,
  ID_KEY,
  jsonBody,
  jsonResponse,
  Moment,
  Name,
  NoQuery,
  pageOf,
  PageQuery,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  toPageBody,
  toPageRequest,
} from "./schema.ts";

export const CopyPhase = z.enum(COPY_PHASES).openapi({
  description:
    "What is being done, in this order; counting, copying, digesting and verifying go over the volume",
});

const Copy = z.object({
  id: Id,
  status: z.enum(["running", "done", "failed", "cancelled"]),
  phase: CopyPhase.optional().openapi({ description: "While it runs" }),
  sourcePoolId: Id,
  sourceSnapshotId: Id,
  sourceVolumeId: Id,
  poolId: Id.openapi({ description: "Where the copy is made" }),
  volumeId: Id.openapi({ description: "The volume there that holds the copies of the source's volume" }),
  deviceId: Id.optional().openapi({ description: "Where its segments come from, if that was chosen" }),
  snapshotId: Id.optional().openapi({ description: "The copy, once it is there" }),
  incremental: z.boolean().optional().openapi({
    description: "Whether only what changed since the last copy is copied; absent until that is known",
  }),
  baseSnapshotId: Id.optional().openapi({ description: "The source of that last copy" }),
  bytesCopied: Count,
  bytesTotal: Count.openapi({ description: "Data to copy; rises until they are counted" }),
  digest: Digest.optional().openapi({
    description: "Of the contents, as read from the source and from the copy",
  }),
  failure: z.object({ code: z.string(), detail: z.string() }).optional(),
  createdAt: Moment,
  endedAt: Moment.optional(),
}).openapi("Copy");

const NewCopy = z.strictObject({
  pool: Reference.openapi({ description: "Where to; its blocks have the same size" }),
  volume: Reference.optional().openapi({ description: "Needed when the snapshot covers several" }),
  device: Reference.optional().openapi({
    description: "The device there that the copy's segments come from; by default, any",
  }),
  name: Name.optional().openapi({
    description:
      "The volume there that holds the copies; by default the one that does, or a new one that is called as the source's " +
      "volume with its pool's name behind it, `db.main`",
  }),
}).openapi("NewCopy");

const params = z.object({ snapshot: Reference });
const copyParams = z.object({ copy: Reference });

const createCopyRoute = createRoute({
  method: "post",
  path: "/snapshots/{snapshot}/copies",
  operationId: "copySnapshot",
  summary: "Copy a volume as a snapshot has it into another pool",
  description:
    "In the background, and taken up again after a crash. Only what changed since the last copy is copied where that " +
    "one is still there, its source too, and its volume was not written since; else everything. The snapshot cannot " +
    "be deleted meanwhile. The copy is called as the snapshot with its pool's name behind it, `nightly.main`, and a " +
    "number where that is taken; it has no name where the snapshot has none.",
  tags: ["copies"],
  request: { params, query: PoolQuery, ...jsonBody(NewCopy) },
  responses: { 202: jsonResponse("The copy is under way", Copy), default: PROBLEM_RESPONSE },
});

const listRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}/copies",
  operationId: "listCopies",
  summary: "List the copies of a snapshot",
  tags: ["copies"],
  request: { params, query: PageQuery.extend(PoolQuery.shape) },
  responses: { 200: jsonResponse("A page of copies", pageOf("copies", Copy)), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/copies/{copy}",
  operationId: "getCopy",
  summary: "A copy, with its progress while it runs",
  tags: ["copies"],
  request: { params: copyParams, query: NoQuery },
  responses: { 200: jsonResponse("The copy", Copy), default: PROBLEM_RESPONSE },
});

const cancelRoute = createRoute({
  method: "delete",
  path: "/copies/{copy}",
  operationId: "cancelCopy",
  summary: "Cancel a copy that runs; one that has ended stays as it is",
  description: "The volume that it was for goes with it if it holds nothing.",
  tags: ["copies"],
  request: { params: copyParams, query: NoQuery },
  responses: { 200: jsonResponse("The copy as it stands now", Copy), default: PROBLEM_RESPONSE },
});

export function registerCopies(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(createCopyRoute, async (c) => {
    const { pool, volume, device, name } = c.req.valid("json");
    const { snapshot } = c.req.valid("param");
    const { pool: sourcePool } = c.req.valid("query");
    const copy = await storage.copies.create(toActor(c), {
      snapshot,
      pool,
      ...given({ sourcePool, volume, device, name }),
    });
    return c.json(toBody(copy), 202, { location: `/copies/${copy.copyId}` });
  });

  app.openapi(listRoute, async (c) => {
    const query = c.req.valid("query");
    const request = toPageRequest(query, limits, ID_KEY);
    const page = await storage.copies.list(c.req.valid("param").snapshot, query.pool, request);
    return c.json(toPageBody("copies", page, toBody), 200);
  });

  app.openapi(
    getRoute,
    async (c) => c.json(toBody(await storage.copies.get(c.req.valid("param").copy)), 200),
  );

  app.openapi(cancelRoute, async (c) => {
    return c.json(toBody(await storage.copies.cancel(toActor(c), c.req.valid("param").copy)), 200);
  });
}

/** A copy as the wire shows it. */
export function toBody(copy: StorageCopy): z.input<typeof Copy> {
  const { status, phase, baseId, targetSnapshotId, digest, failure, createdAt, endedAt } = copy;
  return {
    id: copy.copyId,
    status,
    ...(status === "running" ? { phase } : {}),
    sourcePoolId: copy.poolId,
    sourceSnapshotId: copy.snapshotId,
    sourceVolumeId: copy.volumeId,
    poolId: copy.targetPoolId,
    volumeId: copy.targetVolumeId,
    ...(copy.deviceId === undefined ? {} : { deviceId: copy.deviceId }),
    ...(targetSnapshotId === undefined ? {} : { snapshotId: targetSnapshotId }),
    ...(phase === "beginning" ? {} : { incremental: baseId !== undefined }),
    ...(baseId === undefined ? {} : { baseSnapshotId: baseId }),
    bytesCopied: copy.bytesCopied,
    bytesTotal: copy.bytesTotal,
    ...(digest === undefined ? {} : { digest }),
    ...(failure === undefined ? {} : { failure }),
    createdAt: createdAt.toISOString(),
    ...(endedAt === undefined ? {} : { endedAt: endedAt.toISOString() }),
  };
}
