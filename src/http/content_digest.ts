/**
 * Digests of blocks on their way (RFC 9530): `Content-Digest` of a write is checked before anything is written, and a read gives one
 * to who asks with `Want-Content-Digest`.
 *
 *     Content-Digest: sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:
 *     Want-Content-Digest: sha-256=1
 *
 * It is of the body as it is sent: of the octets, or of the JSON. SHA-256 is the one algorithm here; others in the same field are left
 * aside, as the RFC has it, and so is a field that names none but others.
 */

import { z } from "@hono/zod-openapi";
import type { DoorContext } from "./door.ts";
import { HttpError } from "./errors.ts";

const DIGEST_BYTES = 32;
/** A dictionary (RFC 8941) of byte sequences, and one of integers; parameters are not told apart, for none are known. */
const DIGEST_MEMBER = /^([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):$/;
const WANTED_MEMBER = /^([a-z*][a-z0-9_.*-]*)=(\d{1,2})$/;

/** Of a route that takes blocks. */
export const DigestHeaders = z.object({
  "content-digest": z.string().optional().openapi({
    description: "Of the body, by sha-256 (RFC 9530): if it is another, nothing is written",
    example: "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:",
  }),
});

/** Of a route that answers blocks. */
export const WantDigestHeaders = z.object({
  "want-content-digest": z.string().optional().openapi({
    description: "Asks for the Content-Digest of the answer (RFC 9530)",
    example: "sha-256=1",
  }),
});

/**
 * Demands that the body is what its `Content-Digest` tells, if it has one.
 *
 * @throws {HttpError} `digest-mismatch`; `invalid-request` for a field that is none.
 */
export async function requireDigest(c: DoorContext): Promise<void> {
  const field = c.req.header("content-digest");
  if (field === undefined) return;
  const told = readMember(field, "Content-Digest", DIGEST_MEMBER);
  if (told === undefined) return;
  const digest = decodeDigest(told);
  const found = await toDigest(await c.req.arrayBuffer());
  if (found.every((byte, index) => byte === digest[index])) return;
  throw new HttpError(
    "digest-mismatch",
    `Cannot take this body: expected ${formatDigest(digest)}, found ${formatDigest(found)}`,
  );
}

/** The digest of what is answered, as headers, if the client wants it. */
export async function toDigestHeaders(
  c: DoorContext,
  body: Uint8Array<ArrayBuffer>,
): Promise<Record<string, string>> {
  const field = c.req.header("want-content-digest");
  if (field === undefined) return {};
  const wanted = readMember(field, "Want-Content-Digest", WANTED_MEMBER);
  // A preference of 0 is to do without.
  if (wanted === undefined || Number(wanted) === 0) return {};
  return { "content-digest": formatDigest(await toDigest(body)) };
}

/** What a field tells of SHA-256; of several the last counts. */
function readMember(field: string, name: string, pattern: RegExp): string | undefined {
  let value: string | undefined;
  for (const member of field.split(",")) {
    const match = pattern.exec(member.trim());
    if (match === null) {
      throw new HttpError("invalid-request", `Cannot read ${name}: expected a dictionary like sha-256=…`);
    }
    if (match[1] === "sha-256") value = match[2];
  }
  return value;
}

function decodeDigest(base64: string): Uint8Array {
  try {
    const digest = Uint8Array.fromBase64(base64);
    if (digest.length === DIGEST_BYTES) return digest;
  } catch {
    // Not base64: refused below, like one of another length.
  }
  throw new HttpError(
    "invalid-request",
    `Cannot read Content-Digest: expected ${DIGEST_BYTES} bytes of sha-256 in base64`,
  );
}

async function toDigest(bytes: BufferSource): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

function formatDigest(digest: Uint8Array): string {
  return `sha-256=:${digest.toBase64()}:`;
}
