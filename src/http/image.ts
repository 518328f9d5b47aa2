/**
 * `/snapshots/{snapshot}/image`: a whole volume as a snapshot has it, as one body of bytes, whole or in ranges.
 *
 * It is read while it is sent, a piece for each that the client has taken, so that a download of any size costs the memory of
 * one piece. HEAD asks for the same, and as nobody takes anything, nothing is read.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { SnapshotImage } from "../storage/snapshot_image.ts";
import { type ByteRange, chooseBytes } from "./byte_range.ts";
import { tellingOfCorrupt } from "./corrupt.ts";
import { type Door, type DoorApp, OCTETS } from "./door.ts";
import { HttpError } from "./errors.ts";
import { PoolQuery, PROBLEM_RESPONSE, Reference } from "./schema.ts";
import { sendStream } from "./send.ts";

/** What is read at once. */
const PIECE_BYTES = 1024 * 1024;

const Octets = z.any().openapi({ type: "string", format: "binary" });
const ImageQuery = PoolQuery.extend({
  volume: Reference.optional().openapi({ description: "Needed when the snapshot covers several" }),
});

const imageRoute = createRoute({
  method: "get",
  path: "/snapshots/{snapshot}/image",
  operationId: "readSnapshotImage",
  summary: "A whole volume as a snapshot has it, as bytes",
  description:
    "Takes `Range` (one, or a suffix) and `If-Range`, so downloads can be resumed; `HEAD` tells the size.",
  tags: ["snapshots"],
  request: { params: z.object({ snapshot: Reference }), query: ImageQuery },
  responses: {
    200: { description: "The image", content: { [OCTETS]: { schema: Octets } } },
    206: { description: "A range of it", content: { [OCTETS]: { schema: Octets } } },
    304: { description: "The client has it: its `If-None-Match` names this ETag" },
    default: PROBLEM_RESPONSE,
  },
});

export function registerImage(app: DoorApp, door: Door): void {
  const { storage } = door;
  app.openapi(imageRoute, async (c) => {
    const { pool, volume } = c.req.valid("query");
    const image = await storage.openImage(c.req.valid("param").snapshot, pool, volume);
    const etag = `"${image.snapshotId}.${image.volumeId}"`;
    const headers = {
      "accept-ranges": "bytes",
      etag,
      "last-modified": image.createdAt.toUTCString(),
    };
    if (isNamed(etag, c.req.header("if-none-match"))) return c.body(null, 304, headers);
    const chosen = chooseBytes(image.sizeBytes, etag, {
      range: c.req.header("range"),
      ifRange: c.req.header("if-range"),
    });
    if (chosen === undefined) throw rangeNotSatisfiable(image, headers);
    const { start, end, partial } = chosen;
    const described = {
      ...headers,
      "content-type": OCTETS,
      "content-length": String(end - start),
      ...(partial ? { "content-range": `bytes ${start}-${end - 1}/${image.sizeBytes}` } : {}),
    };
    return c.body(
      sendStream(c, door, tellingOfCorrupt(readPieces(image, chosen), c.get("requestId"), door)),
      partial ? 206 : 200,
      described,
    );
  });
}

/** Reads a piece whenever the client has taken the last one. */
async function* readPieces(image: SnapshotImage, { start, end }: ByteRange): AsyncGenerator<Uint8Array> {
  const { blockSizeBytes } = image;
  for (let position = start; position < end;) {
    const lba = Math.floor(position / blockSizeBytes);
    const stop = Math.min(end, (lba * blockSizeBytes) + PIECE_BYTES);
    const blockCount = Math.ceil(stop / blockSizeBytes) - lba;
    const bytes = await image.read({ lba, blockCount });
    const offset = lba * blockSizeBytes;
    yield bytes.subarray(position - offset, stop - offset);
    position = stop;
  }
}

function isNamed(etag: string, ifNoneMatch: string | undefined): boolean {
  if (ifNoneMatch === undefined) return false;
  return ifNoneMatch.split(",").map((tag) => tag.trim().replace(/^W\//, "")).some((tag) =>
    tag === "*" || tag === etag
  );
}

function rangeNotSatisfiable({ sizeBytes }: SnapshotImage, headers: Record<string, string>): HttpError {
  return new HttpError("range-not-satisfiable", `Cannot send this range: the image has ${sizeBytes} bytes`, {
    headers: { ...headers, "content-range": `bytes */${sizeBytes}` },
  });
}
