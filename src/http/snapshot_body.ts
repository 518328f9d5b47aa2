/**
 * A snapshot as the wire shows it.
 */

import { z } from "@hono/zod-openapi";
import { decodeSnapshotCdb, formatHex } from "../scsi/cdb.ts";
import { PREVIEW_CLIENTS_MAX } from "../storage/seal_preview.ts";
import type {
  Snapshot as StorageSnapshot,
  Verification as StorageVerification,
} from "../storage/snapshot.ts";
import type { SnapshotSpace } from "../storage/space.ts";
import type { Storage } from "../storage/storage.ts";
import type { Client } from "./door.ts";
import { Count, Digest, given, Id, Labels, Lba, Moment, Name, Sequence } from "./schema.ts";

export const Cdb = z.object({
  hex: z.string().openapi({ example: "c00100000000" }),
  name: z.enum(["SNAPSHOT(6)", "SNAPSHOT(10)", "SNAPSHOT(12)"]),
  opcode: z.int(),
  length: z.int(),
  immed: z.boolean().openapi({ description: "Answer at the marker's commit; clear: when sealed" }),
  pool: z.boolean().openapi({ description: "Every volume of the pool" }),
  list: z.boolean().openapi({ description: "A parameter list follows" }),
  firstLba: Lba,
  blockCount: Count.openapi({ description: "0: to the end of the volume" }),
}).openapi("Cdb");

/** What events tell of it too. */
export const Progress = z.object({
  entriesAhead: Count.openapi({ description: "Entries still to leave the queue ahead of the marker" }),
  bytesAhead: Count,
  bytesPerSecond: Count.openapi({ description: "The flusher's rate of late; 0 before it is known" }),
  etaSeconds: z.number().optional(),
});

const ClientAhead = z.object({
  clientId: Id.optional(),
  name: z.string().optional().openapi({ description: "Of the client that asks" }),
  entriesAhead: Count,
  bytesAhead: Count,
}).openapi("ClientAhead");

const SealProgress = z.object({
  ...Progress.shape,
  byClient: z.array(ClientAhead).optional().openapi({
    description:
      `What is ahead of the marker, by client, the largest first; behind the first ${PREVIEW_CLIENTS_MAX}, all others ` +
      "together as one item without an id. Of a pending snapshot that is looked at by itself; the items add up to " +
      "`entriesAhead` and `bytesAhead`",
  }),
}).openapi("Progress");

export const Status = z.enum(["pending", "sealed", "cancelled", "failed"]);

/** What events tell of it too. */
export const SnapshotDigest = z.string().regex(/^[0-9a-f]{64}$/).openapi({
  description: "SHA-256 over the ids and digests of its volumes, see README",
});

const Verification = z.object({
  running: z.boolean().openapi({ description: "Whether the blocks are being read, or are to be" }),
  digestedAt: Moment.optional(),
  checkedAt: Moment.optional().openapi({ description: "When they were last read as a whole" }),
  intact: z.boolean().optional().openapi({
    description: "Whether they were then what the digest says; if not, `fault` of a volume tells why",
  }),
}).openapi("Verification");

export const Snapshot = z.object({
  id: Id,
  name: Name.optional(),
  description: z.string().optional(),
  labels: Labels,
  scheduleId: Id.optional().openapi({ description: "The schedule that took it; it may be gone" }),
  poolId: Id,
  status: Status,
  sequence: Sequence.openapi({
    description: "The marker's: writes with a smaller one are inside, all others are not",
  }),
  volumes: z.array(z.object({
    volumeId: Id,
    timelineId: Count,
    epoch: Count,
    ranges: z.array(z.object({ lba: Lba, blockCount: Count })).openapi({
      description: "What is covered: ascending, neither overlapping nor adjacent",
    }),
    volumeBlocks: Count.openapi({ description: "Blocks that the volume had" }),
    digest: Digest.optional().openapi({
      description:
        "Of the contents, counted in the background; what is not covered counts as zeros. SHA-256 over chained SHA-256 of " +
        "each MiB that is not all zeros, see README",
    }),
    fault: z.string().optional().openapi({
      description: "Why the blocks were not what the digest says, when they were last read",
    }),
  })),
  digest: SnapshotDigest.optional(),
  verification: Verification.optional().openapi({ description: "Of one that is sealed" }),
  progress: SealProgress,
  space: z.object({
    uniqueBytes: Count.openapi({ description: "What comes back when it alone goes, as of the last count" }),
    sharedBytes: Count.openapi({
      description: "What its history has besides, also where younger segments cover older ones wholly",
    }),
    countedAt: Moment.optional().openapi({ description: "Absent before the first count" }),
  }).optional().openapi({
    description:
      "In whole segments, counted in the background; absent in lists, and of one that is cancelled",
  }),
  cdb: Cdb,
  auditId: Id,
  receipt: z.object({
    poolId: Id,
    snapshotId: Id,
    auditId: Id,
    chainHash: z.string().openapi({ description: "Of the audit record, in hex" }),
    sequence: Sequence,
    cdb: z.string().openapi({ description: "In hex" }),
    keyId: z.string().openapi({ description: "`kid` of the key at `/keys` that checks it" }),
    signature: z.string().openapi({ format: "byte", description: "Ed25519, in base64" }),
  }).openapi("Receipt").optional().openapi({
    description: "What was recorded of the request, signed; of one that is taken or looked at by itself",
  }),
  createdAt: Moment,
  sealedAt: Moment.optional(),
  hold: z.object({ until: Moment, reason: z.string() }).optional(),
}).openapi("Snapshot");

/** A CDB as the wire shows it: its bytes, and what they say. */
export function toCdbBody(cdb: Uint8Array): z.input<typeof Cdb> {
  return { hex: formatHex(cdb), ...decodeSnapshotCdb(cdb) };
}

/** Names the client that asks, which is the one whose name is known. */
export function nameClient(
  { progress: { byClient, ...progress }, ...snapshot }: z.input<typeof Snapshot>,
  { clientId, clientName: name }: Client,
): z.input<typeof Snapshot> {
  const named = byClient?.map((share) => share.clientId === clientId ? { ...share, name } : share);
  return { ...snapshot, progress: { ...progress, ...given({ byClient: named }) } };
}

/** A snapshot as the wire shows it to who has taken it, or asks for it alone. */
export async function toReceiptedBody(
  { receipts }: Storage,
  snapshot: StorageSnapshot,
): Promise<z.input<typeof Snapshot>> {
  return { ...toSnapshotBody(snapshot), receipt: await receipts.sign(snapshot) };
}

/** A snapshot as the wire shows it. */
export function toSnapshotBody(snapshot: StorageSnapshot): z.input<typeof Snapshot> {
  const { chainHash: _chainHash, digest, volumes, verification, ...shown } = snapshot;
  const { snapshotId, pool, cdb, createdAt, sealedAt, hold, space, ...rest } = shown;
  return {
    id: snapshotId,
    poolId: pool.poolId,
    ...rest,
    volumes: volumes.map(({ digest, ...volume }) => ({
      ...volume,
      ...(digest === undefined ? {} : { digest: digest.toHex() }),
    })),
    ...(digest === undefined ? {} : { digest: digest.toHex() }),
    ...(verification === undefined ? {} : { verification: toVerificationBody(verification) }),
    cdb: toCdbBody(cdb),
    createdAt: createdAt.toISOString(),
    ...(sealedAt === undefined ? {} : { sealedAt: sealedAt.toISOString() }),
    ...(space === undefined ? {} : { space: toSpaceBody(space) }),
    ...(hold === undefined ? {} : { hold: { ...hold, until: hold.until.toISOString() } }),
  };
}

function toVerificationBody({ digestedAt, checkedAt, ...found }: StorageVerification) {
  return {
    ...found,
    ...(digestedAt === undefined ? {} : { digestedAt: digestedAt.toISOString() }),
    ...(checkedAt === undefined ? {} : { checkedAt: checkedAt.toISOString() }),
  };
}

function toSpaceBody({ countedAt, ...bytes }: SnapshotSpace) {
  return { ...bytes, ...(countedAt === undefined ? {} : { countedAt: countedAt.toISOString() }) };
}
