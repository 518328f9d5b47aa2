/**
 * The fast lane: reads and writes of blocks in their plainest form, which are nearly all requests there are. They are
 * answered without router, middleware and validator, which took four fifths of a small write's time in this door.
 *
 * A token is known here only as long as it is remembered, and a client that is bound to volumes names them by their ids.
 * Whatever is not exactly of that form goes the usual way from its start, so the lane knows no refusal of its own: what is
 * answered here would be answered alike there.
 */

import { answerInTime } from "./answer_time.ts";
import { type Door, OCTETS } from "./door.ts";
import { readToken, recallClient } from "./authentication.ts";
import { HttpError } from "./errors.ts";
import { mayPlainly } from "./permission.ts";
import { answerHeaders, answerProblem } from "./problem.ts";
import { createId } from "../storage/identifier.ts";
import type { Actor } from "../storage/actor.ts";

/** The name or id as references are spelt, an LBA that is exact as a number, for reads a count. */
const PATH = /^\/volumes\/([A-Za-z0-9][A-Za-z0-9._-]{0,62})\/blocks\/(\d{1,15})(?:\?count=(\d{1,15}))?$/;

/** The same as the route that it stands for. */
const ROUTE = "/volumes/{volume}/blocks/{lba}";

/** Makes the lane: it answers a request of its form, and nothing to any other. */
export function createFastLane(door: Door): (request: Request) => Promise<Response> | undefined {
  return (request) => {
    const { method, url } = request;
    if (method !== "PUT" && method !== "GET") return undefined;
    const path = url.slice(url.indexOf("/", url.indexOf("//") + 2));
    const match = PATH.exec(path);
    if (match === null) return undefined;
    const [, volume, lba, count] = match;
    const isPlain = method === "PUT"
      ? count === undefined && isPlainWrite(door, request)
      : isPlainRead(request);
    const client = isPlain ? recallClient(door, readToken(request.headers) ?? "") : undefined;
    if (client === undefined || !mayPlainly(client, method === "PUT" ? "write" : "read", volume)) {
      return undefined;
    }
    const actor = { ...client, origin: `http ${method} ${path.split("?")[0]}` };
    return method === "PUT"
      ? answer(door, request, actor, (id) => write(door, request, actor, volume, Number(lba), id))
      : answer(door, request, actor, (id) => read(door, volume, Number(lba), Number(count ?? 1), id));
  };
}

function isPlainWrite({ limits }: Door, { headers }: Request): boolean {
  const length = headers.get("content-length");
  return headers.get("content-type") === OCTETS && length !== null &&
    Number(length) <= limits.blocksBytesMax &&
    !headers.has("transfer-encoding") && !headers.has("content-encoding") && !headers.has("content-digest");
}

function isPlainRead({ headers }: Request): boolean {
  const accept = headers.get("accept");
  return (accept === null || accept === "*/*" || accept === OCTETS) && !headers.has("content-length") &&
    !headers.has("transfer-encoding") && !headers.has("content-encoding") &&
    !headers.has("want-content-digest");
}

async function answer(
  door: Door,
  request: Request,
  { clientName, origin }: Actor,
  make: (requestId: string) => Promise<Response>,
): Promise<Response> {
  const startedAt = performance.now();
  const requestId = createId();
  let response: Response;
  try {
    response = await make(requestId);
  } catch (error) {
    response = answerProblem(error, requestId, door);
  }
  const milliseconds = performance.now() - startedAt;
  door.metrics.countRequest(request.method, ROUTE, response.status, milliseconds);
  door.onRequest({
    requestId,
    method: request.method,
    path: origin.slice(origin.lastIndexOf(" ") + 1),
    status: response.status,
    milliseconds: Math.round(milliseconds * 10) / 10,
    client: clientName,
  });
  return response;
}

async function write(
  door: Door,
  request: Request,
  actor: Actor,
  volume: string,
  lba: number,
  requestId: string,
): Promise<Response> {
  let data: Uint8Array;
  try {
    data = new Uint8Array(await request.arrayBuffer());
  } catch {
    throw new HttpError("incomplete-body", "Cannot read the body: it ended before it was complete");
  }
  const { sequence, blockCount } = await answerInTime(
    door,
    "PUT",
    door.storage.append(actor, volume, undefined, [{ lba, data }]),
  );
  return new Response(`{"sequence":${sequence},"lba":${lba},"blockCount":${blockCount}}`, {
    headers: { ...answerHeaders(requestId), "content-type": "application/json" },
  });
}

async function read(
  door: Door,
  volume: string,
  lba: number,
  blockCount: number,
  requestId: string,
): Promise<Response> {
  const bytes = await answerInTime(
    door,
    "GET",
    door.storage.readVolume(volume, undefined, { lba, blockCount }),
  );
  return new Response(bytes, {
    headers: { ...answerHeaders(requestId), "content-type": OCTETS, vary: "accept" },
  });
}
