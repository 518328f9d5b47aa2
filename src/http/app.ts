/**
 * The HTTP door, put together: what every request passes, the resources, and what is answered to everything else.
 *
 * On the way in: an id for the request, the log's line, the token, how much of a client there may be, what it may do, the bound on the
 * body, the time for the answer, the idempotency key. On the way out: security headers, and what the answer's body counts. A fault
 * anywhere ends in a problem document.
 */

import { OpenAPIHono } from "@hono/zod-openapi";
import { createMiddleware } from "hono/factory";
import { matchedRoutes } from "hono/route";
import { createId } from "../storage/identifier.ts";
import { limitAnswer } from "./answer_time.ts";
import { registerAudit } from "./audit.ts";
import { requireClient } from "./authentication.ts";
import { registerBlocks } from "./blocks.ts";
import { registerClients } from "./clients.ts";
import { registerCopies } from "./copies.ts";
import { allowOrigins } from "./cors.ts";
import { registerDevices } from "./devices.ts";
import { registerDocuments } from "./documents.ts";
import type { Door, DoorApp, DoorContext, DoorEnv } from "./door.ts";
import { HttpError } from "./errors.ts";
import { registerEvents } from "./events.ts";
import { registerExport } from "./export.ts";
import { registerHealth } from "./health.ts";
import { repeatAnswers } from "./idempotency.ts";
import { registerImage } from "./image.ts";
import { IMAGE_PATH, registerImageUpload } from "./image_upload.ts";
import { IMPORT_PATH, registerImport } from "./import.ts";
import { registerKeys } from "./keys.ts";
import { requireOwn, requireScope } from "./permission.ts";
import { registerPools } from "./pools.ts";
import { answerHeaders, answerProblem, toFieldProblems } from "./problem.ts";
import { registerRanges } from "./ranges.ts";
import { receiveWhole } from "./receive.ts";
import { registerSchedules } from "./schedules.ts";
import { registerScrubs } from "./scrubs.ts";
import { registerMetrics } from "./scrape.ts";
import { isSentWhole, sendLarge } from "./send.ts";
import { registerSnapshots } from "./snapshots.ts";
import { registerVolumes } from "./volumes.ts";

/** Makes the door's application; `app.fetch` serves a request. */
export function createApp(door: Door): DoorApp {
  const app: DoorApp = new OpenAPIHono<DoorEnv>({
    defaultHook: (result) => {
      if (result.success) return;
      throw new HttpError("invalid-request", "Cannot read the request: parts of it are not as documented", {
        problems: toFieldProblems(result.error.issues),
      });
    },
  });
  app.onError((error, c) => answerProblem(error, c.get("requestId"), door));

  app.use(identify(door));
  app.use(allowOrigins(door));
  registerHealth(app, door);
  registerDocuments(app);
  app.use(requireClient(door));
  app.use(requireRoom(door));
  app.use(requireScope());
  app.use(readBody(door));
  app.use(requireJson());
  app.use(limitAnswer(door, isStreamed));
  app.use(requireOwn(door));
  app.use(repeatAnswers(door, takesJson));
  registerPools(app, door);
  registerDevices(app, door);
  registerScrubs(app, door);
  registerVolumes(app, door);
  registerBlocks(app, door);
  registerRanges(app, door);
  registerSnapshots(app, door);
  registerSchedules(app, door);
  registerImage(app, door);
  registerImageUpload(app, door);
  registerExport(app, door);
  registerImport(app, door);
  registerCopies(app, door);
  registerClients(app, door);
  registerAudit(app, door);
  registerKeys(app, door);
  registerEvents(app, door);
  registerMetrics(app, door);

  app.notFound((c) => answerProblem(findFault(app, c.req.method, c.req.path), c.get("requestId"), door));
  return app;
}

/** Gives the request its id, and the log its line. */
function identify(door: Door) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const startedAt = performance.now();
    const requestId = createId();
    c.set("requestId", requestId);
    // Before the response is made: adding to one that stands costs as much as all of the routing.
    for (const [name, value] of Object.entries(answerHeaders(requestId))) c.header(name, value);
    await next();
    const milliseconds = performance.now() - startedAt;
    door.metrics.countRequest(c.req.method, findPattern(c), c.res.status, milliseconds);
    const client = c.get("client")?.clientName;
    door.onRequest({
      requestId,
      method: c.req.method,
      path: c.req.path,
      status: c.res.status,
      milliseconds: Math.round(milliseconds * 10) / 10,
      ...(client === undefined ? {} : { client }),
    });
  });
}

/** The route that a request has come to, as it is documented. */
function findPattern(c: DoorContext): string {
  const route = matchedRoutes(c).findLast(({ method }) => method !== "ALL");
  return route?.path.replaceAll(/:(\w+)/g, "{$1}") ?? "none";
}

/** Lets a request in if there is room for it, until its answer is made or, where that takes long, sent. */
function requireRoom(door: Door) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const place = door.loads.enter(c.get("client"));
    c.set("place", place);
    try {
      await next();
      await countAnswer(c, door);
    } finally {
      if (c.get("isSending") === undefined) place.leave();
    }
  });
}

/** Of an upgrade, and where there is nothing new. */
const STATUSES_WITHOUT_BODY = [101, 204, 304];

/** Counts the body of an answer that is not counted while it is sent, and has a large one sent in pieces. */
async function countAnswer(c: DoorContext, door: Door): Promise<void> {
  const { res } = c;
  if (c.get("isSending") || c.req.method === "HEAD" || STATUSES_WITHOUT_BODY.includes(res.status)) return;
  const bytes = new Uint8Array(await res.arrayBuffer());
  // Put in its place rather than beside it: Hono would go through the headers of both.
  c.res = undefined;
  c.res = answerBytes(door, c, bytes, res);
}

function answerBytes(door: Door, c: DoorContext, bytes: Uint8Array<ArrayBuffer>, made: Response): Response {
  const place = c.get("place");
  if (isSentWhole(bytes)) {
    place.charge(bytes.length);
    return new Response(bytes, made);
  }
  try {
    const body = sendLarge({ door, place, delivery: c.env }, bytes);
    c.set("isSending", true);
    made.headers.set("content-length", String(bytes.length));
    return new Response(body, made);
  } catch (error) {
    return answerProblem(error, c.get("requestId"), door);
  }
}

/**
 * Receives the body, once and whole: what is told to exceed the bound is refused unread, other bodies as soon as they exceed
 * it, end early or come too slowly. Handlers find it in the request's cache; one whose body is streamed receives its own. A request that
 * tells of no body has none (RFC 9112, 6.3).
 */
function readBody(door: Door) {
  const { limits: { blocksBytesMax, jsonBytesMax } } = door;
  return createMiddleware<DoorEnv>(async (c, next) => {
    const { headers } = c.req.raw;
    if (isStreamed(c)) return await next();
    if (!headers.has("content-length") && !headers.has("transfer-encoding")) return await next();
    if ((c.req.header("content-encoding") ?? "identity").toLowerCase() !== "identity") {
      throw new HttpError("unsupported-media-type", "Cannot take this body: expected no Content-Encoding", {
        headers: { "accept-encoding": "identity" },
      });
    }
    const bytesMax = c.req.method === "PUT" && !takesJson(c) ? blocksBytesMax : jsonBytesMax;
    const body = await receiveWhole(door, c.req.raw, c.get("place"), bytesMax);
    // Hono declares what the promise resolves with.
    (c.req.bodyCache as { arrayBuffer?: Promise<ArrayBuffer> }).arrayBuffer = Promise.resolve(body);
    await next();
  });
}

/** Demands JSON where a route takes it; a path or a method that there is not has an answer of its own. */
function requireJson() {
  return createMiddleware<DoorEnv>(async (c, next) => {
    if (!takesJson(c) || !matchedRoutes(c).some((route) => route.method !== "ALL")) return await next();
    const type = (c.req.header("content-type") ?? "").split(";")[0].trim().toLowerCase();
    if (type !== "application/json") {
      throw new HttpError("unsupported-media-type", "Cannot take this body: expected application/json", {
        headers: { accept: "application/json" },
      });
    }
    await next();
  });
}

/** Images and streams are of any length: their handlers read them as they come. */
function isStreamed({ req: { method, path } }: DoorContext): boolean {
  return (method === "PUT" && IMAGE_PATH.test(path)) || (method === "POST" && IMPORT_PATH.test(path));
}

/** Of the other bodies, PUTs are octets, and so is an import; a flush, a run, a verification, a rotation and a scrub have none. */
function takesJson({ req: { method, path } }: DoorContext): boolean {
  if (method === "PUT") return path.endsWith("/hold");
  return method === "PATCH" || (method === "POST" && !/\/(flush|run|verify|import|rotate|scrub)$/.test(path));
}

/** A path that exists with other methods is answered with those; any other does not exist. */
function findFault(app: DoorApp, method: string, path: string): HttpError {
  const allowed = app.routes.filter((route) => route.method !== "ALL" && toPattern(route.path).test(path))
    .flatMap((route) => route.method === "GET" ? ["GET", "HEAD"] : [route.method]);
  if (allowed.length === 0) {
    return new HttpError("not-found", "Cannot find this path; /docs lists those that there are");
  }
  const allow = [...new Set(allowed)].sort().join(", ");
  return new HttpError("method-not-allowed", `Cannot ${method} this: expected ${allow}`, {
    headers: { allow },
  });
}

function toPattern(path: string): RegExp {
  return new RegExp(`^${path.replaceAll(/[.*+?^$()|[\]\\]/g, "\\$&").replaceAll(/:[^/]+/g, "[^/]+")}$`);
}
