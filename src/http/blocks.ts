/**
 * The blocks of volumes: `/volumes/{volume}/blocks/{lba}` and `/volumes/{volume}/writes`.
 *
 * Every answer to a write tells its sequence. With the sequence of a snapshot's marker, anyone can tell what is inside.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { accepts } from "hono/accepts";
import type { Appended, Trim, Write } from "../storage/append.ts";
import { DigestHeaders, requireDigest, toDigestHeaders, WantDigestHeaders } from "./content_digest.ts";
import { type Door, type DoorApp, type DoorContext, OCTETS, toActor } from "./door.ts";
import { HttpError } from "./errors.ts";
import { WriteVerifier } from "./pool_settings.ts";
import {
  Count,
  CountParameter,
  jsonBody,
  jsonResponse,
  Lba,
  LbaParameter,
  listOf,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  Sequence,
} from "./schema.ts";

/** What is told of a write besides, where its commit did not wait for the disk. */
export const RelaxedFields = {
  durability: z.literal("relaxed").optional().openapi({
    description:
      "Only in a pool of relaxed durability: a crash of the database may lose the write, until a flush or a " +
      "snapshot behind it is answered",
  }),
  writeVerifier: WriteVerifier.optional().openapi({
    description: "Only with it: if a later flush tells another one, the write may be lost; send it again",
  }),
};

/** The same for an answer. */
export function tellRelaxed({ writeVerifier }: Pick<Appended, "writeVerifier">) {
  return writeVerifier === undefined ? {} : { durability: "relaxed" as const, writeVerifier };
}

const Written = z.object({
  sequence: Sequence.openapi({
    description: "Inside every snapshot whose marker has a greater sequence, and no other",
  }),
  lba: Lba,
  blockCount: Count,
  ...RelaxedFields,
}).openapi("Written");

const Blocks = z.object({
  lba: Lba,
  blockCount: Count,
  data: z.string().openapi({ format: "byte", description: "Base64" }),
}).openapi("Blocks");

const Octets = z.any().openapi({ type: "string", format: "binary" });

const WriteBody = z.strictObject({
  lba: z.number(),
  data: z.string().openapi({ format: "byte", description: "Base64 of a whole number of blocks" }),
});
const TrimBody = z.strictObject({
  lba: z.number(),
  trim: z.number().openapi({ description: "Number of blocks" }),
});
const WritesBody = z.strictObject({
  writes: listOf(z.union([WriteBody, TrimBody])),
}).openapi("Writes");

const params = z.object({ volume: Reference, lba: LbaParameter });
const rangeQuery = PoolQuery.extend({ count: CountParameter });

const putRoute = createRoute({
  method: "put",
  path: "/volumes/{volume}/blocks/{lba}",
  operationId: "writeBlocks",
  summary: "Write blocks",
  description: "The body is a whole number of blocks, up to 4 MiB. Answered after the commit.",
  tags: ["blocks"],
  request: {
    params,
    query: PoolQuery,
    headers: DigestHeaders,
    body: { required: true, content: { [OCTETS]: { schema: Octets } } },
  },
  responses: { 200: jsonResponse("The write's place in the queue", Written), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/volumes/{volume}/blocks/{lba}",
  operationId: "readBlocks",
  summary: "Read blocks",
  description: "Up to 4 MiB; octets, or base64 in JSON for `Accept: application/json`.",
  tags: ["blocks"],
  request: { params, query: rangeQuery, headers: WantDigestHeaders },
  responses: {
    200: {
      description: "The blocks, with their Content-Digest if it was asked for",
      content: { [OCTETS]: { schema: Octets }, "application/json": { schema: Blocks } },
    },
    default: PROBLEM_RESPONSE,
  },
});

const trimRoute = createRoute({
  method: "delete",
  path: "/volumes/{volume}/blocks/{lba}",
  operationId: "trimBlocks",
  summary: "Trim blocks: they read as zeros from then on",
  tags: ["blocks"],
  request: { params, query: rangeQuery },
  responses: { 200: jsonResponse("The trim's place in the queue", Written), default: PROBLEM_RESPONSE },
});

const writesRoute = createRoute({
  method: "post",
  path: "/volumes/{volume}/writes",
  operationId: "writeMany",
  summary: "Write and trim in many places, as one",
  description: "In order, and wholly before or wholly behind any marker.",
  tags: ["blocks"],
  request: {
    params: params.pick({ volume: true }),
    query: PoolQuery,
    headers: DigestHeaders,
    ...jsonBody(WritesBody),
  },
  responses: {
    200: jsonResponse("The request's place in the queue", Written.omit({ lba: true })),
    default: PROBLEM_RESPONSE,
  },
});

export function registerBlocks(app: DoorApp, { storage }: Door): void {
  app.openapi(putRoute, async (c) => {
    const { volume, lba } = c.req.valid("param");
    const { pool } = c.req.valid("query");
    const data = await readOctets(c);
    await requireDigest(c);
    const { sequence, blockCount, ...how } = await storage.append(toActor(c), volume, pool, [{ lba, data }]);
    return c.json({ sequence, lba, blockCount, ...tellRelaxed(how) }, 200);
  });

  app.openapi(getRoute, async (c) => {
    const { volume, lba } = c.req.valid("param");
    const { pool, count: blockCount = 1 } = c.req.valid("query");
    const bytes = await storage.readVolume(volume, pool, { lba, blockCount });
    return answerBlocks(c, { lba, blockCount }, bytes);
  });

  app.openapi(trimRoute, async (c) => {
    const { volume, lba } = c.req.valid("param");
    const { pool, count: trim = 1 } = c.req.valid("query");
    const { sequence, ...how } = await storage.append(toActor(c), volume, pool, [{ lba, trim }]);
    return c.json({ sequence, lba, blockCount: trim, ...tellRelaxed(how) }, 200);
  });

  app.openapi(writesRoute, async (c) => {
    const { writes } = c.req.valid("json");
    await requireDigest(c);
    const { volume } = c.req.valid("param");
    const decoded = writes.map((write, index) => "data" in write ? decodeWrite(write, index) : write);
    const written = await storage.append(toActor(c), volume, c.req.valid("query").pool, decoded);
    const { sequence, blockCount, ...how } = written;
    return c.json({ sequence, blockCount, ...tellRelaxed(how) }, 200);
  });
}

/** Answers blocks as the client accepts them. */
export async function answerBlocks(
  c: DoorContext,
  range: { lba: number; blockCount: number },
  bytes: Uint8Array<ArrayBuffer>,
) {
  const type = accepts(c, { header: "Accept", supports: [OCTETS, "application/json"], default: OCTETS });
  if (type === "application/json") {
    const json = new TextEncoder().encode(JSON.stringify({ ...range, data: bytes.toBase64() }));
    return c.body(json, 200, { "content-type": type, vary: "accept", ...await toDigestHeaders(c, json) });
  }
  return c.body(bytes, 200, { "content-type": OCTETS, vary: "accept", ...await toDigestHeaders(c, bytes) });
}

async function readOctets(c: DoorContext): Promise<Uint8Array> {
  const type = (c.req.header("content-type") ?? "").split(";")[0].trim().toLowerCase();
  if (type !== OCTETS) {
    throw new HttpError("unsupported-media-type", `Cannot take this body: expected ${OCTETS}`, {
      headers: { accept: OCTETS },
    });
  }
  return new Uint8Array(await c.req.arrayBuffer());
}

function decodeWrite({ lba, data }: z.output<typeof WriteBody>, index: number): Write | Trim {
  try {
    return { lba, data: Uint8Array.fromBase64(data) };
  } catch {
    throw new HttpError("invalid-request", "Cannot read the request: it has data that is not base64", {
      problems: [{ path: `writes.${index}.data`, message: "expected base64" }],
    });
  }
}
