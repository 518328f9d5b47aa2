/**
 * `/snapshots/{snapshot}/export`: a whole volume as a snapshot has it, or what changed since an earlier one, as a stream in Ceph's
 * `rbd diff v1` format. `import.ts` takes it back, here or in another pool or installation.
 *
 * It is read while it is sent, a piece for each that the client has taken. If a snapshot is deleted meanwhile, the stream
 * breaks off without its end record.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Difference } from "../storage/difference.ts";
import type { Snapshot } from "../storage/snapshot.ts";
import { tellingOfCorrupt } from "./corrupt.ts";
import { type Door, type DoorApp, OCTETS } from "./door.ts";
import { type DiffRecord, encodeDiff } from "./rbd_diff.ts";
import { PoolQuery, PROBLEM_RESPONSE, Reference } from "./schema.ts";
import { sendStream } from "./send.ts";

const Octets = z.any().openapi({ type: "string", format: "binary" });
const ExportQuery = PoolQuery.extend({
  volume: Reference.optional().openapi({ description: "Needed when the snapshot covers several" }),
  base: Reference.optional().openapi({
    description: "An earlier snapshot of what this one goes back to; by default, all blocks are sent",
  }),
});

const exportRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}/export",
  operationId: "exportSnapshot",
  summary: "A volume as a snapshot has it, or what changed since a base, in the format rbd diff v1",
  description:
    "Snapshots are named in it by their names, or by their ids where they have none. It is complete only with its " +
    "end record: if a snapshot is deleted meanwhile, it breaks off.",
  tags: ["snapshots"],
  request: { params: z.object({ snapshot: Reference }), query: ExportQuery },
  responses: {
    200: { description: "The stream", content: { [OCTETS]: { schema: Octets } } },
    default: PROBLEM_RESPONSE,
  },
});

export function registerExport(app: DoorApp, door: Door): void {
  const { storage } = door;
  app.openapi(exportRoute, async (c) => {
    const { pool, volume, base } = c.req.valid("query");
    const difference = await storage.openDifference(c.req.valid("param").snapshot, pool, volume, base);
    const stream = tellingOfCorrupt(encode(difference), c.get("requestId"), door);
    return c.body(sendStream(c, door, stream), 200, {
      "content-type": OCTETS,
      "content-disposition": `attachment; filename="${toFileName(difference)}"`,
    });
  });
}

function encode({ snapshot, base, pool, covered, pieces }: Difference) {
  const { blockSizeBytes } = pool;
  return encodeDiff({
    ...(base === undefined ? {} : { from: nameOf(base) }),
    to: nameOf(snapshot),
    sizeBytes: covered.volumeBlocks * blockSizeBytes,
  }, toRecords(pieces(), blockSizeBytes));
}

async function* toRecords(
  pieces: ReturnType<Difference["pieces"]>,
  blockSizeBytes: number,
): AsyncGenerator<DiffRecord> {
  for await (const { lba, blockCount, data } of pieces) {
    const offsetBytes = lba * blockSizeBytes;
    yield data === undefined
      ? { offsetBytes, lengthBytes: blockCount * blockSizeBytes }
      : { offsetBytes, data };
  }
}

function nameOf({ snapshotId, name }: Snapshot): string {
  return name ?? snapshotId;
}

function toFileName({ snapshot, base }: Difference): string {
  return `${nameOf(snapshot)}${base === undefined ? "" : `.since.${nameOf(base)}`}.rbd-diff`;
}
