/**
 * `/snapshots`: snapshot requests are SCSI commands; this is how HTTP carries them. How one is shown is in `snapshot_body.ts`.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { decodeSnapshotCdb, parseCdbHex } from "../scsi/cdb.ts";
import { PARAMETER_LIST_BYTES_MAX } from "../scsi/parameter_list.ts";
import type { Snapshot as StorageSnapshot } from "../storage/snapshot.ts";
import { HOLD_REASON_LENGTH_MAX } from "../storage/hold.ts";
import { DESCRIPTION_BYTES_MAX } from "../storage/snapshot_command.ts";
import { answerBlocks } from "./blocks.ts";
import { WantDigestHeaders } from "./content_digest.ts";
import {
  type Door,
  type DoorApp,
  type DoorContext,
  OCTETS,
  toActor,
  whileConnected,
  withinOf,
} from "./door.ts";
import { HttpError } from "./errors.ts";
import {
  Count,
  CountParameter,
  given,
  ID_KEY,
  jsonBody,
  jsonResponse,
  LabelQuery,
  Labels,
  LabelsPatch,
  Lba,
  LbaParameter,
  listOf,
  Name,
  pageOf,
  PageQuery,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  toPageBody,
  toPageRequest,
} from "./schema.ts";
import { nameClient, Snapshot, Status, toReceiptedBody, toSnapshotBody } from "./snapshot_body.ts";

const NewHold = z.strictObject({
  until: z.iso.datetime({ offset: true }).openapi({ description: "Nobody can delete the snapshot before" }),
  reason: z.string().max(HOLD_REASON_LENGTH_MAX).default(""),
}).openapi("NewHold");

const InWords = z.strictObject({
  volumes: listOf(Reference).optional().openapi({
    description: "Several are one cut; by default, all of the pool",
  }),
  pool: Reference.optional().openapi({ description: "By default `main`" }),
  lba: Lba.optional().openapi({ description: "First block to cover, of one volume" }),
  blockCount: Count.optional().openapi({ description: "Blocks to cover, of one volume; 0: to its end" }),
  ranges: listOf(z.strictObject({
    volume: Reference,
    lba: Lba,
    blockCount: Count.optional().openapi({ description: "0 or absent: to the volume's end" }),
  })).optional().openapi({
    description: "Blocks to cover of further volumes, several ranges of each if need be",
  }),
  name: Name.optional(),
  description: z.string().max(DESCRIPTION_BYTES_MAX).optional(),
  labels: Labels.optional().openapi({ description: "Beside the command, which knows of none" }),
}).openapi("SnapshotInWords");

const SnapshotChange = z.strictObject({
  labels: LabelsPatch.optional(),
  description: z.string().max(DESCRIPTION_BYTES_MAX).nullable().optional().openapi({
    description: "null removes it",
  }),
}).openapi("SnapshotChange");

const AsCommand = z.strictObject({
  cdb: z.string().max(64).openapi({ description: "The command in hex", example: "c00300000000" }),
  dataOut: z.string().max(2 * PARAMETER_LIST_BYTES_MAX).optional().openapi({
    description: "The parameter list in hex, when LIST is set",
  }),
  volume: Reference.optional().openapi({ description: "The volume that the command addresses" }),
  pool: Reference.optional().openapi({ description: "The pool that it addresses; by default `main`" }),
}).openapi("SnapshotAsCommand");

const NewSnapshot = z.union([AsCommand, InWords]).openapi("NewSnapshot");

const WaitQuery = z.strictObject({
  wait: z.enum(["sealed"]).optional().openapi({
    description: "Answer when sealed (the CDB with IMMED clear)",
  }),
});

const params = z.object({ snapshot: Reference });

const takeRoute = createRoute({
  method: "post",
  path: "/snapshots",
  operationId: "takeSnapshot",
  summary: "Take a snapshot",
  description:
    "Puts a marker at the tail of the queue; nobody waits for it. In words, or as a SCSI command in hex. " +
    "200 when it was asked to wait for the seal and the seal came in time, else 202.",
  tags: ["snapshots"],
  request: { query: WaitQuery, ...jsonBody(NewSnapshot) },
  responses: {
    200: jsonResponse("Sealed", Snapshot),
    202: jsonResponse("The marker is committed", Snapshot),
    default: PROBLEM_RESPONSE,
  },
});

const listRoute = createRoute({
  method: "get",
  path: "/snapshots",
  operationId: "listSnapshots",
  summary: "List the snapshots",
  tags: ["snapshots"],
  request: {
    query: PageQuery.extend(PoolQuery.shape).extend(LabelQuery.shape).extend({
      volume: Reference.optional().openapi({ description: "Those that cover it, or a part of it" }),
      status: Status.optional(),
    }),
  },
  responses: {
    200: jsonResponse("A page of snapshots", pageOf("snapshots", Snapshot)),
    default: PROBLEM_RESPONSE,
  },
});

const getRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}",
  operationId: "getSnapshot",
  summary: "A snapshot, with its progress while it is pending, also by client",
  tags: ["snapshots"],
  request: { params, query: PoolQuery },
  responses: { 200: jsonResponse("The snapshot", Snapshot), default: PROBLEM_RESPONSE },
});

const changeRoute = createRoute({
  method: "patch",
  path: "/snapshots/{snapshot}",
  operationId: "changeSnapshot",
  summary: "Label a snapshot, describe it, or both at once",
  tags: ["snapshots"],
  request: { params, query: PoolQuery, ...jsonBody(SnapshotChange) },
  responses: { 200: jsonResponse("The snapshot", Snapshot), default: PROBLEM_RESPONSE },
});

const holdRoute = createRoute({
  method: "put",
  path: "/snapshots/{snapshot}/hold",
  operationId: "holdSnapshot",
  summary: "Hold a snapshot: nobody can delete it before that moment",
  description: "Also while it is pending. A hold can be extended, and never shortened; it ends by itself.",
  tags: ["snapshots"],
  request: { params, query: PoolQuery, ...jsonBody(NewHold) },
  responses: { 200: jsonResponse("The snapshot", Snapshot), default: PROBLEM_RESPONSE },
});

const deleteRoute = createRoute({
  method: "delete",
  path: "/snapshots/{snapshot}",
  operationId: "deleteSnapshot",
  summary: "Delete a snapshot, or cancel it while it is pending",
  description:
    "Answers at once; its space is reclaimed in the background. A cancelled one stays as a record, without its name, " +
    "until it is deleted too. Not while it is held (409 `held`), or a copy reads it (409 `in-use`).",
  tags: ["snapshots"],
  request: { params, query: PoolQuery },
  responses: { 204: { description: "Deleted or cancelled" }, default: PROBLEM_RESPONSE },
});

const verifyRoute = createRoute({
  method: "post",
  path: "/snapshots/{snapshot}/verify",
  operationId: "verifySnapshot",
  summary: "Read a sealed snapshot as a whole, and compare it with its digest",
  description:
    "In the background; `snapshot.verified` tells what was found, and so does the snapshot. One that is being read already " +
    "is not read twice.",
  tags: ["snapshots"],
  request: { params, query: PoolQuery },
  responses: { 202: jsonResponse("It is under way", Snapshot), default: PROBLEM_RESPONSE },
});

const readRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}/blocks/{lba}",
  operationId: "readSnapshotBlocks",
  summary: "Read blocks of a snapshot, pending or sealed",
  tags: ["snapshots"],
  request: {
    params: params.extend({ lba: LbaParameter }),
    query: PoolQuery.extend({
      volume: Reference.optional().openapi({ description: "Needed when the snapshot covers several" }),
      count: CountParameter,
    }),
    headers: WantDigestHeaders,
  },
  responses: {
    200: {
      description: "The blocks, with their Content-Digest if it was asked for",
      content: {
        [OCTETS]: { schema: z.any().openapi({ type: "string", format: "binary" }) },
        "application/json": { schema: z.object({ lba: Lba, blockCount: Count, data: z.string() }) },
      },
    },
    default: PROBLEM_RESPONSE,
  },
});

export function registerSnapshots(app: DoorApp, door: Door): void {
  const { storage, limits } = door;

  app.openapi(takeRoute, async (c) => {
    const untilSealed = c.req.valid("query").wait === "sealed";
    const snapshot = await take(c, door, c.req.valid("json"), untilSealed);
    const location = { location: `/snapshots/${snapshot.snapshotId}` };
    const body = await toReceiptedBody(storage, snapshot);
    if (!isAnsweredSealed(snapshot)) return c.json(body, 202, location);
    return c.json(body, 200, location);
  });

  app.openapi(listRoute, async (c) => {
    const query = c.req.valid("query");
    const { pool, volume, status, label: labels } = query;
    const filter = given({ pool, volume, status, labels, within: withinOf(c) });
    const page = await storage.listSnapshots(filter, toPageRequest(query, limits, ID_KEY));
    return c.json(toPageBody("snapshots", page, toSnapshotBody), 200);
  });

  app.openapi(getRoute, async (c) => {
    const snapshot = await storage.previewSnapshot(c.req.valid("param").snapshot, c.req.valid("query").pool);
    return c.json(nameClient(await toReceiptedBody(storage, snapshot), c.get("client")), 200);
  });

  app.openapi(changeRoute, async (c) => {
    const change = c.req.valid("json");
    if (Object.keys(change).length === 0) {
      throw new HttpError("invalid-request", "Cannot change nothing: expected labels or a description");
    }
    const { snapshot } = c.req.valid("param");
    const changed = await storage.changeSnapshot(
      toActor(c),
      snapshot,
      c.req.valid("query").pool,
      given(change),
    );
    return c.json(toSnapshotBody(changed), 200);
  });

  app.openapi(holdRoute, async (c) => {
    const { until, reason } = c.req.valid("json");
    const { snapshot } = c.req.valid("param");
    const hold = { until: new Date(until), reason };
    const held = await storage.holdSnapshot(toActor(c), snapshot, c.req.valid("query").pool, hold);
    return c.json(toSnapshotBody(held), 200);
  });

  app.openapi(verifyRoute, async (c) => {
    const { snapshot } = c.req.valid("param");
    const verified = await storage.verifySnapshot(toActor(c), snapshot, c.req.valid("query").pool);
    return c.json(toSnapshotBody(verified), 202);
  });

  app.openapi(deleteRoute, async (c) => {
    await storage.deleteSnapshot(toActor(c), c.req.valid("param").snapshot, c.req.valid("query").pool);
    return c.body(null, 204);
  });

  app.openapi(readRoute, async (c) => {
    const { snapshot, lba } = c.req.valid("param");
    const { pool, volume, count: blockCount = 1 } = c.req.valid("query");
    const range = { lba, blockCount };
    return answerBlocks(c, range, await storage.readSnapshot(snapshot, pool, volume, range));
  });
}

function take(
  c: DoorContext,
  door: Door,
  body: z.output<typeof NewSnapshot>,
  untilSealed: boolean,
): Promise<StorageSnapshot> {
  const signal = whileConnected(c, door);
  if (!("cdb" in body)) return door.storage.takeSnapshot(toActor(c), { ...given(body), untilSealed }, signal);
  if (untilSealed) {
    throw new HttpError(
      "invalid-request",
      "Cannot wait as well: a CDB says by its IMMED bit when it is answered",
    );
  }
  const { cdb, dataOut, ...addressed } = body;
  const command = {
    cdb: parseCdbHex(cdb),
    ...(dataOut === undefined ? {} : { dataOut: parseDataOut(dataOut) }),
    ...given(addressed),
  };
  return door.storage.executeCommand(toActor(c), command, signal);
}

function parseDataOut(hex: string): Uint8Array {
  try {
    return Uint8Array.fromHex(hex);
  } catch {
    throw new HttpError("invalid-request", "Cannot read dataOut: expected hex digits, two a byte");
  }
}

/** Tells whether a snapshot was to be answered when sealed, and is. */
export function isAnsweredSealed({ cdb, status }: StorageSnapshot): boolean {
  return !decodeSnapshotCdb(cdb).immed && status !== "pending";
}
