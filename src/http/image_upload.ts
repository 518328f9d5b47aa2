/**
 * `PUT /volumes/{volume}/image`: a whole image, or a range of it, into a volume.
 *
 * It is written while it comes, a piece after the other, so that an upload of any size costs the memory of two pieces. Blocks of
 * zeros are trimmed rather than stored. It is many requests and not one: a snapshot meanwhile has what came before it. An
 * upload that was broken off goes on where it was, by `Content-Range`.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { StorageError } from "../errors.ts";
import type { Appended, Trim, Write } from "../storage/append.ts";
import type { Volume } from "../storage/volume.ts";
import { answerInTime } from "./answer_time.ts";
import { RelaxedFields, tellRelaxed } from "./blocks.ts";
import { type Door, type DoorApp, type DoorContext, OCTETS, toActor } from "./door.ts";
import { HttpError } from "./errors.ts";
import { receiveStream } from "./receive.ts";
import { Count, jsonResponse, Lba, PoolQuery, PROBLEM_RESPONSE, Reference, Sequence } from "./schema.ts";

/** What is written at once; of small blocks as many as one request may name. */
const PIECE_BYTES = 1024 * 1024;
const PIECE_BLOCKS_MAX = 1024;

/** Whose bodies are left to the handler to read. */
export const IMAGE_PATH = /^\/volumes\/[^/]+\/image$/;

const Octets = z.any().openapi({ type: "string", format: "binary" });

const uploadRoute = createRoute({
  method: "put",
  path: "/volumes/{volume}/image",
  operationId: "writeImage",
  summary: "Write an image to a volume, from its first block on or from that of a Content-Range",
  description:
    "Streamed, of any length up to the volume's; blocks of zeros are trimmed. Not one request in the queue but many: " +
    "one that ends early leaves what came, and can be resumed by `Content-Range: bytes FIRST-LAST/SIZE`.",
  tags: ["blocks"],
  request: {
    params: z.object({ volume: Reference }),
    query: PoolQuery,
    body: { required: true, content: { [OCTETS]: { schema: Octets } } },
  },
  responses: {
    200: jsonResponse(
      "All of it is committed",
      z.object({
        sequence: Sequence.openapi({ description: "Of the last entry" }),
        lba: Lba,
        blockCount: Count,
        ...RelaxedFields,
      }).openapi("WrittenImage"),
    ),
    default: PROBLEM_RESPONSE,
  },
});

export function registerImageUpload(app: DoorApp, door: Door): void {
  const { storage } = door;
  app.openapi(uploadRoute, async (c) => {
    const reference = c.req.valid("param").volume;
    const { pool } = c.req.valid("query");
    requireOctets(c);
    const volume = await answerInTime(door, "GET", storage.getVolume(reference, pool));
    const { lba, end } = toTarget(c, volume);
    const { blockSizeBytes } = volume.pool;
    const actor = toActor(c);
    let at = lba;
    let last: Appended = { sequence: 0 };
    for await (const piece of readPieces(receiveStream(c, door), blockSizeBytes)) {
      const blockCount = piece.length / blockSizeBytes;
      if (at + blockCount > end) throw tooLong(volume, at - lba);
      const writes = toWrites(at, piece, blockSizeBytes);
      const appending = storage.append(actor, volume.volumeId, volume.pool.poolId, writes);
      const written = await answerInTime(door, "PUT", appending);
      if (at > lba) requireKept(last, written);
      last = written;
      at += blockCount;
    }
    if (at === lba) throw new StorageError("not-whole-blocks", "Cannot write an image without a byte");
    return c.json({ sequence: last.sequence, lba, blockCount: at - lba, ...tellRelaxed(last) }, 200);
  });
}

/** Of relaxed writes the last ones are gone when the database has come back from a crash: here they would be a hole. */
function requireKept({ writeVerifier: before }: Appended, { writeVerifier }: Appended): void {
  if (before === undefined || before === writeVerifier) return;
  throw new StorageError(
    "outcome-unknown",
    "Cannot tell whether all of the image was kept: the database has crashed meanwhile, or the pool's mode was changed",
  );
}

/** @throws {HttpError} `unsupported-media-type` for a body that is not octets as they are. */
export function requireOctets(c: DoorContext): void {
  const type = (c.req.header("content-type") ?? "").split(";")[0].trim().toLowerCase();
  if (type === OCTETS && (c.req.header("content-encoding") ?? "identity").toLowerCase() === "identity") {
    return;
  }
  throw new HttpError("unsupported-media-type", `Cannot take this body: expected ${OCTETS}, not encoded`, {
    headers: { accept: OCTETS },
  });
}

const CONTENT_RANGE = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/;

/** The blocks `[lba, end)` that the body may fill. */
function toTarget(c: DoorContext, volume: Volume): { lba: number; end: number } {
  const { blockCount, pool: { blockSizeBytes } } = volume;
  const header = c.req.header("content-range");
  const length = Number(c.req.header("content-length") ?? 0);
  if (header === undefined) {
    if (length > blockCount * blockSizeBytes) throw tooLong(volume);
    return { lba: 0, end: blockCount };
  }
  const match = CONTENT_RANGE.exec(header);
  const [, first, last, size] = match?.map(Number) ?? [];
  if (match === null || last < first || (length > 0 && last - first + 1 !== length)) {
    throw new HttpError(
      "invalid-request",
      "Cannot read Content-Range: expected bytes FIRST-LAST/SIZE, as long as the body",
    );
  }
  if (first % blockSizeBytes !== 0 || (last + 1) % blockSizeBytes !== 0) {
    throw new StorageError(
      "not-whole-blocks",
      `Cannot write bytes ${first} to ${last}: blocks have ${blockSizeBytes}`,
    );
  }
  const end = (last + 1) / blockSizeBytes;
  if (end > blockCount || (match[3] !== "*" && size !== blockCount * blockSizeBytes)) throw tooLong(volume);
  return { lba: first / blockSizeBytes, end };
}

/** Whose length is not told is written until it proves too long. */
function tooLong({ name, blockCount, pool }: Volume, writtenBlocks = 0): StorageError {
  const written = writtenBlocks === 0 ? "" : `; its first ${writtenBlocks} blocks are written`;
  return new StorageError(
    "lba-out-of-range",
    `Cannot write the image: volume ${name} has ${blockCount * pool.blockSizeBytes} bytes${written}`,
  );
}

/** The body in pieces of whole blocks. */
async function* readPieces(
  body: AsyncIterable<Uint8Array>,
  blockSizeBytes: number,
): AsyncGenerator<Uint8Array> {
  const pieceBytes = Math.min(PIECE_BYTES, PIECE_BLOCKS_MAX * blockSizeBytes);
  let piece = new Uint8Array(pieceBytes);
  let filled = 0;
  for await (const chunk of body) {
    for (let offset = 0; offset < chunk.length;) {
      const taken = Math.min(chunk.length - offset, pieceBytes - filled);
      piece.set(chunk.subarray(offset, offset + taken), filled);
      offset += taken;
      filled += taken;
      if (filled < pieceBytes) continue;
      yield piece;
      piece = new Uint8Array(pieceBytes);
      filled = 0;
    }
  }
  if (filled % blockSizeBytes !== 0) {
    throw new StorageError(
      "not-whole-blocks",
      `Cannot write the image: its end is not a whole block of ${blockSizeBytes}`,
    );
  }
  if (filled > 0) yield piece.subarray(0, filled);
}

/** Runs of blocks that are zeros, and runs of those that are not. */
function toWrites(lba: number, piece: Uint8Array, blockSizeBytes: number): (Write | Trim)[] {
  const writes: (Write | Trim)[] = [];
  const blocks = piece.length / blockSizeBytes;
  for (let start = 0; start < blocks;) {
    const isZero = isZeros(piece, start, blockSizeBytes);
    let end = start + 1;
    while (end < blocks && isZeros(piece, end, blockSizeBytes) === isZero) end += 1;
    const data = piece.subarray(start * blockSizeBytes, end * blockSizeBytes);
    writes.push(isZero ? { lba: lba + start, trim: end - start } : { lba: lba + start, data });
    start = end;
  }
  return writes;
}

function isZeros(piece: Uint8Array, block: number, blockSizeBytes: number): boolean {
  const words = new Uint32Array(piece.buffer, piece.byteOffset + block * blockSizeBytes, blockSizeBytes / 4);
  return words.every((word) => word === 0);
}
