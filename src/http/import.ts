/**
 * `POST /volumes/{volume}/import`: the contents of a volume from a stream in Ceph's `rbd diff v1` format, as `export.ts` sends it
 * and `rbd export-diff` writes it. It is written while it comes, in constant memory, and takes effect as a whole or not at all.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { StorageError } from "../errors.ts";
import { toBlockCount } from "../storage/block.ts";
import { isId, NAME_PATTERN } from "../storage/identifier.ts";
import type { ImportPart } from "../storage/import.ts";
import { type Door, type DoorApp, OCTETS, toActor } from "./door.ts";
import { HttpError } from "./errors.ts";
import { requireOctets } from "./image_upload.ts";
import { requireReach } from "./permission.ts";
import { decodeDiff, type DiffRecord } from "./rbd_diff.ts";
import { receiveStream } from "./receive.ts";
import { given, Id, jsonResponse, Name, PoolQuery, PROBLEM_RESPONSE, Reference, Sequence } from "./schema.ts";
import { toBody as toVolumeBody, Volume } from "./volumes.ts";

/** Whose bodies are left to the handler to read. */
export const IMPORT_PATH = /^\/volumes\/[^/]+\/import$/;

const Octets = z.any().openapi({ type: "string", format: "binary" });
const ImportQuery = PoolQuery.extend({
  base: Reference.optional().openapi({
    description: "The snapshot that the volume is still equal to; by default, what the stream names",
  }),
  snapshot: Name.optional().openapi({
    description: "Name of the snapshot that is taken; by default, what the stream names",
  }),
});

const importRoute = createRoute({
  method: "post",
  path: "/volumes/{volume}/import",
  operationId: "importVolume",
  summary: "Take a volume's contents from a stream in the format rbd diff v1, and a snapshot of them",
  description:
    "Wholly or not at all. A stream that starts from a snapshot is a difference to it: the volume has it and was not " +
    "written since. Any other is all that the volume then has. The volume gets the stream's size, and must not be " +
    "written meanwhile (409 `volume-changed`).",
  tags: ["volumes"],
  request: {
    params: z.object({ volume: Reference }),
    query: ImportQuery,
    body: { required: true, content: { [OCTETS]: { schema: Octets } } },
  },
  responses: {
    200: jsonResponse(
      "The volume, and the snapshot of what it was given",
      z.object({
        volume: Volume,
        snapshotId: Id,
        sequence: Sequence.openapi({ description: "The snapshot's" }),
      }).openapi("Imported"),
    ),
    default: PROBLEM_RESPONSE,
  },
});

export function registerImport(app: DoorApp, door: Door): void {
  const { storage } = door;
  app.openapi(importRoute, async (c) => {
    const { pool, base, snapshot } = c.req.valid("query");
    requireOctets(c);
    const { volumeId, pool: { poolId, blockSizeBytes } } = await storage.getVolume(
      c.req.valid("param").volume,
      pool,
    );
    const { header, records } = await decodeDiff(receiveStream(c, door));
    const from = chooseBase(header.from, base);
    if (from !== undefined) await requireReach(c, storage, { pool: poolId, snapshots: [from] });
    const { volume, snapshotId, sequence } = await storage.importVolume(toActor(c), volumeId, poolId, {
      sizeBytes: header.sizeBytes,
      ...given({ base: from, snapshotName: snapshot ?? toName(header.to) }),
    }, toParts(records, blockSizeBytes));
    return c.json({ volume: toVolumeBody(volume), snapshotId, sequence }, 200);
  });
}

function chooseBase(from: string | undefined, base: string | undefined): string | undefined {
  if (from === undefined && base !== undefined) {
    throw new HttpError(
      "invalid-request",
      "Cannot take a base: the stream does not start from a snapshot but has all there is",
    );
  }
  if (base === undefined && from !== undefined && !NAME_PATTERN.test(from)) {
    throw new StorageError(
      "snapshot-not-found",
      "Cannot find the snapshot that the stream starts from: no snapshot here can have its name; name the base",
    );
  }
  return base ?? from;
}

/** A snapshot without a name is named in a stream by its id, which is no name for another. */
function toName(to: string | undefined): string | undefined {
  return to === undefined || isId(to) ? undefined : to;
}

async function* toParts(
  records: AsyncIterable<DiffRecord>,
  blockSizeBytes: number,
): AsyncGenerator<ImportPart> {
  for await (const record of records) {
    const { offsetBytes } = record;
    const lba = offsetBytes === 0 ? 0 : toBlockCount(offsetBytes, blockSizeBytes);
    const lengthBytes = "data" in record ? record.data.length : record.lengthBytes;
    const blockCount = toBlockCount(lengthBytes, blockSizeBytes);
    yield "data" in record ? { lba, data: record.data } : { lba, blockCount };
  }
}
