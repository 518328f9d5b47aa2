/**
 * The fast lane: reads and writes of blocks in their plainest form, which are nearly all requests there are. They are
 * answered without router, middleware and validator, which took four fifths of a small write's time in this door.
 *
 * A token is known here only as long as it is remembered, and a client that is bound to volumes names them by their ids.
 * Whatever is not exactly of that form goes the usual way from its start, so the lane knows no refusal of its own: what is
 * answered here would be answered alike there.
 */

import type { Actor } from "../storage/actor.ts";
import type { BlockRange } from "../storage/block.ts";
import { createId } from "../storage/identifier.ts";
import { answerInTime } from "./answer_time.ts";
import { readToken, recallClient } from "./authentication.ts";
import type { Place } from "./client_load.ts";
import { type Client, type Delivery, type Door, OCTETS } from "./door.ts";
import { mayPlainly } from "./permission.ts";
import { answerHeaders, answerProblem } from "./problem.ts";
import { receiveWhole } from "./receive.ts";
import { isSentWhole, sendLarge } from "./send.ts";

/** The name or id as references are spelt, an LBA that is exact as a number, for reads a count. */
const PATH = /^\/volumes\/([A-Za-z0-9][A-Za-z0-9._-]{0,62})\/blocks\/(\d{1,15})(?:\?count=(\d{1,15}))?$/;

/** The same as the route that it stands for. */
const ROUTE = "/volumes/{volume}/blocks/{lba}";

/** Makes the lane: it answers a request of its form, and nothing to any other. */
export function createFastLane(
  door: Door,
): (request: Request, delivery: Delivery) => Promise<Response> | undefined {
  const mayBeCrossOrigin = (door.corsOrigins ?? []).length > 0;
  return (request, delivery) => {
    const { method, url } = request;
    if (method !== "PUT" && method !== "GET") return undefined;
    if (mayBeCrossOrigin && request.headers.has("origin")) return undefined;
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
    const origin = `http ${method} ${path.split("?")[0]}`;
    return method === "PUT"
      ? answer(
        door,
        request,
        client,
        origin,
        (visit) => write(door, request, { ...client, origin }, volume, Number(lba), visit),
      )
      : answer(
        door,
        request,
        client,
        origin,
        (visit) => read(door, volume, { lba: Number(lba), blockCount: Number(count ?? 1) }, delivery, visit),
      );
  };
}

/** A request that was let in, and whether it is still being sent its answer when that is made. */
interface Visit {
  readonly requestId: string;
  readonly place: Place;
  isSending: boolean;
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
  client: Client,
  origin: string,
  make: (visit: Visit) => Promise<Response>,
): Promise<Response> {
  const startedAt = performance.now();
  const requestId = createId();
  let response: Response;
  try {
    response = await enter(door, client, requestId, make);
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
    client: client.clientName,
  });
  return response;
}

async function enter(
  { loads }: Door,
  client: Client,
  requestId: string,
  make: (visit: Visit) => Promise<Response>,
): Promise<Response> {
  const visit = { requestId, place: loads.enter(client), isSending: false };
  try {
    return await make(visit);
  } finally {
    if (!visit.isSending) visit.place.leave();
  }
}

async function write(
  door: Door,
  request: Request,
  actor: Actor,
  volume: string,
  lba: number,
  { requestId, place }: Visit,
): Promise<Response> {
  const data = new Uint8Array(await receiveWhole(door, request, place, door.limits.blocksBytesMax));
  const { sequence, blockCount, writeVerifier } = await answerInTime(
    door,
    "PUT",
    door.storage.append(actor, volume, undefined, [{ lba, data }]),
  );
  const relaxed = writeVerifier === undefined
    ? ""
    : `,"durability":"relaxed","writeVerifier":"${writeVerifier}"`;
  const body = `{"sequence":${sequence},"lba":${lba},"blockCount":${blockCount}${relaxed}}`;
  place.charge(body.length);
  return new Response(body, {
    headers: { ...answerHeaders(requestId), "content-type": "application/json" },
  });
}

async function read(
  door: Door,
  volume: string,
  range: BlockRange,
  delivery: Delivery,
  visit: Visit,
): Promise<Response> {
  const bytes = await answerInTime(door, "GET", door.storage.readVolume(volume, undefined, range));
  const { place } = visit;
  const headers = { ...answerHeaders(visit.requestId), "content-type": OCTETS, vary: "accept" };
  if (isSentWhole(bytes)) {
    place.charge(bytes.length);
    return new Response(bytes, { headers });
  }
  const body = sendLarge({ door, place, delivery }, bytes);
  visit.isSending = true;
  return new Response(body, { headers: { ...headers, "content-length": String(bytes.length) } });
}
