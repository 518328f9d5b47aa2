/**
 * `Idempotency-Key`: a POST that creates, sent again under the same key, is answered as the first time and does nothing twice.
 *
 * It stands in front of the routes, which know nothing of it but that the actor carries the key: so it covers each POST with a JSON
 * body, also those that are still to come, the run of a schedule and the verification of a snapshot. Blocks are no such thing: a write tells its sequence, and has no audit record.
 *
 * No key is taken for a new client: its answer shows the token, which is stored nowhere. Sent again it is 409 `name-taken`.
 *
 * Kept are successes, and refusals by the storage system, which has looked (404, 409, 422). Not kept are faults (5xx) and what
 * was refused unread (400): with those the key is free again.
 *
 * Source: draft-ietf-httpapi-idempotency-key-header-07; strings are those of RFC 9651, 3.3.3. Which answers are kept, and
 * `Idempotent-Replayed`, are as Stripe has them.
 */

import { createMiddleware } from "hono/factory";
import { matchedRoutes } from "hono/route";
import { toStorageError } from "../storage/fault.ts";
import type { KeptAnswer, KeyClaim } from "../storage/idempotency.ts";
import type { Door, DoorContext, DoorEnv } from "./door.ts";
import { HttpError } from "./errors.ts";
import { remakeAnswer } from "./remade_answer.ts";

/** Longest key, in characters: a UUID has 36. */
export const KEY_LENGTH_MAX = 255;

/** Tells whether a route takes a key. Its body is JSON, or there is none: one that is streamed cannot be compared. */
export function takesKey(method: string, path: string, isJson: boolean): boolean {
  if (path === "/clients") return false;
  return method === "POST" && (isJson ? !path.endsWith("/writes") : /\/(run|verify)$/.test(path));
}

/**
 * Answers a request whose key was used before as it was answered then.
 *
 * @param takesJson whether the request's body is JSON, which has been read; of any other, keys are ignored.
 */
export function repeatAnswers(door: Door, takesJson: (c: DoorContext) => boolean) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const header = c.req.header("idempotency-key");
    if (header === undefined || !isKeyed(c, takesJson(c))) return await next();
    const { storage } = door;
    const key = parseKey(header);
    const claimed = await storage.idempotency.claim(c.get("client").clientId, key, await digest(c));
    if (claimed.state === "answered") return repeat(c, claimed.answer);
    const { claim } = claimed;
    if (claimed.state === "claimed") {
      c.set("claim", claim);
      await next();
    } else {
      c.res = repeat(c, await remake(door, claim, claimed.outcomes));
    }
    await settle(c, door, claim);
  });
}

function isKeyed(c: DoorContext, isJson: boolean): boolean {
  return takesKey(c.req.method, c.req.path, isJson) &&
    matchedRoutes(c).some((route) => route.method !== "ALL");
}

/** A string of RFC 9651, or the bare form that most clients send: visible characters but those that would mean something. */
const QUOTED = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])+)"$/;
const BARE = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+$/;

function parseKey(header: string): string {
  const quoted = QUOTED.exec(header)?.[1].replaceAll(/\\(.)/g, "$1");
  const key = quoted ?? (BARE.test(header) ? header : "");
  if (key.length >= 1 && key.length <= KEY_LENGTH_MAX) return key;
  throw new HttpError(
    "invalid-request",
    `Cannot read Idempotency-Key: expected a string of 1 to ${KEY_LENGTH_MAX} characters, in quotes or without blanks`,
  );
}

/** The fingerprint of a request: method, path, query and body. The body is read already. */
async function digest(c: DoorContext): Promise<Uint8Array> {
  const { pathname, search } = new URL(c.req.url);
  const line = new TextEncoder().encode(`${c.req.method} ${pathname}${search}\n`);
  const body = new Uint8Array(await c.req.arrayBuffer());
  const bytes = new Uint8Array(line.length + body.length);
  bytes.set(line);
  bytes.set(body, line.length);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

function repeat(c: DoorContext, { status, contentType, location, body }: KeptAnswer): Response {
  return c.body(body, status as 200, {
    "content-type": contentType,
    "idempotent-replayed": "true",
    ...(location === undefined ? {} : { location }),
  });
}

/** Makes the answer to what was done; when that fails, the next attempt may try at once. */
async function remake(
  door: Door,
  claim: KeyClaim,
  outcomes: Parameters<typeof remakeAnswer>[1],
): Promise<KeptAnswer> {
  try {
    return await remakeAnswer(door.storage, outcomes);
  } catch (error) {
    await door.storage.idempotency.release(claim);
    throw error;
  }
}

const KEPT_REFUSALS = [404, 409, 422];

/** Stores the answer, or gives the key back. The client is answered even if that fails: what was done is known by its key. */
async function settle(c: DoorContext, { storage, onFault }: Door, claim: KeyClaim): Promise<void> {
  const { res } = c;
  try {
    if (res.ok || KEPT_REFUSALS.includes(res.status)) {
      await storage.idempotency.keep(claim, await readAnswer(res.clone()));
    } else {
      await storage.idempotency.release(claim);
    }
  } catch (error) {
    if (toStorageError(error) === undefined) onFault(error, c.get("requestId"));
  }
}

async function readAnswer(response: Response): Promise<KeptAnswer> {
  const { status, headers } = response;
  const location = headers.get("location");
  return {
    status,
    contentType: headers.get("content-type") ?? "",
    ...(location === null ? {} : { location }),
    body: await response.text(),
  };
}

/** The header as a parameter of each operation that takes it. */
export const KEY_PARAMETER = {
  name: "Idempotency-Key",
  in: "header",
  required: false,
  schema: { type: "string" },
  description:
    "Makes it safe to send the request again: with the same key within 24 hours it is answered as the first time, with " +
    "`Idempotent-Replayed: true`, and nothing is done twice. 422 `idempotency-key-reused` for another request, 409 " +
    '`idempotency-key-in-progress` while the first one is under way. 1 to 255 characters, as a structured string (`"…"`) or bare.',
  example: '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
} as const;
