/**
 * `/audit`: who did what, when, by which command.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { formatHex } from "../scsi/cdb.ts";
import { decodeSnapshotParameterList } from "../scsi/parameter_list.ts";
import { type AuditedCommand, type AuditRecord as StorageAuditRecord, NO_POOL } from "../storage/audit.ts";
import { DIGESTS_COUNTED_MAX } from "../storage/digestion.ts";
import { DEFAULT_POOL } from "../storage/pool.ts";
import type { Door, DoorApp } from "./door.ts";
import {
  Count,
  given,
  Id,
  ID_KEY,
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
  ScsiAnswerBody,
  Sequence,
  toPageBody,
  toPageRequest,
  toPageToken,
} from "./schema.ts";
import { Cdb, toCdbBody } from "./snapshot_body.ts";

const Phase = z.object({
  phase: z.enum([
    "BUS FREE",
    "ARBITRATION",
    "SELECTION",
    "RESELECTION",
    "COMMAND",
    "DATA OUT",
    "STATUS",
    "MESSAGE IN",
  ]),
  at: Moment,
  message: z.enum(["DISCONNECT", "COMMAND COMPLETE"]).optional(),
  status: ScsiAnswerBody.shape.status.optional(),
}).openapi("ScsiPhase");

const Hash = z.string().regex(/^[0-9a-f]{64}$/);

const Command = z.object({
  cdb: Cdb,
  dataOut: z.object({
    hex: z.string(),
    name: Name.optional(),
    description: z.string().optional(),
    volumeIds: z.array(Id),
    ranges: z.array(z.object({ volumeId: Id, lba: Lba, blockCount: Count })).openapi({
      description: "0 blocks: to the end of the volume",
    }),
  }).optional().openapi({ description: "The parameter list" }),
  scsiStatus: ScsiAnswerBody.shape.status.optional().openapi({
    description: "Absent until the command has ended",
  }),
  phases: z.array(Phase),
  sequence: Sequence.openapi({ description: "The marker's" }),
}).openapi("AuditedCommand");

const AuditRecord = z.object({
  id: Id,
  poolId: Id.optional().openapi({ description: "Absent of what belongs to no pool" }),
  at: Moment,
  clientId: Id,
  clientName: z.string(),
  origin: z.string().openapi({ description: "Front door and route", example: "http POST /snapshots" }),
  action: z.enum([
    "client.change",
    "client.create",
    "client.revoke",
    "client.rotate",
    "copy.cancel",
    "copy.create",
    "pool.change",
    "pool.create",
    "device.add",
    "volume.clone",
    "volume.create",
    "volume.label",
    "volume.limit",
    "volume.resize",
    "volume.delete",
    "volume.import",
    "volume.revert",
    "scrub.cancel",
    "scrub.start",
    "schedule.change",
    "schedule.create",
    "schedule.delete",
    "schedule.run",
    "snapshot.cancel",
    "snapshot.create",
    "snapshot.delete",
    "snapshot.hold",
    "snapshot.label",
    "snapshot.verify",
  ]),
  targetId: Id,
  targetName: z.string().optional(),
  command: Command.optional().openapi({ description: "Of a snapshot request" }),
  chainNumber: Count.openapi({ description: "Its place in its pool's chain" }),
  chainHash: Hash.openapi({
    description: "SHA-256 over the hash of the row before and this one as recorded",
  }),
}).openapi("AuditRecord");

const VerifiedAudit = z.object({
  poolId: Id.optional().openapi({ description: "Absent of what is of no pool" }),
  rowCount: Count.openapi({ description: "Rows of this page that fit" }),
  number: Count.openapi({ description: "The last row that fits; 0 before the first" }),
  hash: Hash.openapi({ description: "Its hash" }),
  fault: z.object({
    number: z.int(),
    auditId: Id.optional(),
    reason: z.enum(["changed", "missing", "unexpected"]),
  }).optional().openapi({ description: "The first row that does not fit; no page follows" }),
  digests: z.object({
    digested: Count.openapi({ description: "Snapshots that have a digest" }),
    pending: Count.openapi({ description: "Sealed ones that nobody has read yet" }),
    damaged: Count.openapi({
      description: "Those that were not what their digest says, when they were last read",
    }),
  }).optional().openapi({
    description:
      `Of the pool's snapshots, as they were last found; each is counted up to ${DIGESTS_COUNTED_MAX}`,
  }),
  nextPageToken: z.string().optional().openapi({ description: "Absent when the chain is through" }),
}).openapi("VerifiedAudit");

const listRoute = createRoute({
  method: "get",
  path: "/audit",
  operationId: "listAudit",
  summary: "The audit, oldest first",
  tags: ["audit"],
  request: { query: PageQuery },
  responses: {
    200: jsonResponse("A page of the audit", pageOf("records", AuditRecord)),
    default: PROBLEM_RESPONSE,
  },
});

const verifyRoute = createRoute({
  method: "get",
  path: "/audit/verify",
  operationId: "verifyAudit",
  summary: "Check the chain of a pool's audit",
  description:
    "Makes the hashes again, page by page, and names the first row that does not fit: it was changed, is missing, or was " +
    "put in. Changed rows also are moved ones. The last page tells whether rows are missing at the end. Snapshots' blocks are " +
    "not read for it: `digests` tells what was found when they last were.",
  tags: ["audit"],
  request: {
    query: PageQuery.extend({
      pool: Reference.optional().openapi({
        description: `By default \`main\`; \`${NO_POOL}\` for what is of no pool, such as clients`,
      }),
    }),
  },
  responses: { 200: jsonResponse("What was found", VerifiedAudit), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/audit/{id}",
  operationId: "getAuditRecord",
  summary: "One record of the audit",
  tags: ["audit"],
  request: { params: z.object({ id: z.string().min(1).max(63) }), query: NoQuery },
  responses: { 200: jsonResponse("The record", AuditRecord), default: PROBLEM_RESPONSE },
});

export function registerAudit(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(listRoute, async (c) => {
    const page = await storage.listAudit(toPageRequest(c.req.valid("query"), limits, ID_KEY));
    return c.json(toPageBody("records", page, toBody), 200);
  });

  app.openapi(verifyRoute, async (c) => {
    const query = c.req.valid("query");
    const { itemsMax, after } = toPageRequest(query, limits, NUMBER_KEY);
    const part = { rowsMax: itemsMax, ...(after === undefined ? {} : { after: Number(after) }) };
    const { next, poolId, ...verified } = await storage.verifyAudit(query.pool ?? DEFAULT_POOL, part);
    return c.json({ ...ofPool(poolId), ...verified, ...given({ nextPageToken: toPageToken(next) }) }, 200);
  });

  app.openapi(
    getRoute,
    async (c) => c.json(toBody(await storage.getAuditRecord(c.req.valid("param").id)), 200),
  );
}

function ofPool(poolId: string): { poolId?: string } {
  return poolId === NO_POOL ? {} : { poolId };
}

function toBody(
  { auditId, poolId, at, command, chainHash, ...record }: StorageAuditRecord,
): z.input<typeof AuditRecord> {
  return {
    id: auditId,
    ...ofPool(poolId),
    at: at.toISOString(),
    ...record,
    ...(command === undefined ? {} : { command: toCommandBody(command) }),
    chainHash: chainHash.toHex(),
  };
}

function toCommandBody(
  { cdb, dataOut, markerSequence, ...command }: AuditedCommand,
): z.input<typeof Command> {
  return {
    cdb: toCdbBody(cdb),
    ...(dataOut === undefined
      ? {}
      : { dataOut: { hex: formatHex(dataOut), ...decodeSnapshotParameterList(dataOut) } }),
    ...command,
    sequence: markerSequence,
  };
}
