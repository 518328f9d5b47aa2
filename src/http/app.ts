/**
 * The HTTP door, put together: what every request passes, the resources, and what is answered to everything else.
 *
 * On the way in: an id for the request, the log's line, the token, what its client may do, the bound on the body, the time for the answer, the idempotency key. On the way out: security
 * headers. A fault anywhere ends in a problem document.
 */

import { OpenAPIHono } from "@hono/zod-openapi";
import { bodyLimit } from "hono/body-limit";
import type { MiddlewareHandler } from "hono";
import { createMiddleware } from "hono/factory";
import { matchedRoutes } from "hono/route";
import { StorageError } from "../errors.ts";
import { createId } from "../storage/identifier.ts";
import { limitAnswer } from "./answer_time.ts";
import { registerAudit } from "./audit.ts";
import { requireClient } from "./authentication.ts";
import { registerBlocks } from "./blocks.ts";
import { registerClients } from "./clients.ts";
import { registerCopies } from "./copies.ts";
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
import { registerSchedules } from "./schedules.ts";
import { registerScrubs } from "./scrubs.ts";
import { registerMetrics } from "./scrape.ts";
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
  registerHealth(app, door);
  registerDocuments(app);
  app.use(requireClient(door));
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

/**
 * Reads the body, once and whole: what is told to exceed the bound is refused unread, other bodies as soon as they exceed
 * it, or end early. Handlers find it in the request's cache; one whose body is streamed reads its own. A request that tells of no body has none (RFC 9112, 6.3).
 */
function readBody({ limits }: Door) {
  const [blocks, json] = [limitBody(limits.blocksBytesMax), limitBody(limits.jsonBytesMax)];
  return createMiddleware<DoorEnv>(async (c, next) => {
    const { headers } = c.req.raw;
    if (isStreamed(c)) return await next();
    if (!headers.has("content-length") && !headers.has("transfer-encoding")) return await next();
    if ((c.req.header("content-encoding") ?? "identity").toLowerCase() !== "identity") {
      throw new HttpError("unsupported-media-type", "Cannot take this body: expected no Content-Encoding", {
        headers: { "accept-encoding": "identity" },
      });
    }
    try {
      await (c.req.method === "PUT" && !takesJson(c) ? blocks : json)(
        c,
        async () => void await c.req.arrayBuffer(),
      );
    } catch (error) {
      if (error instanceof StorageError) throw error;
      throw new HttpError("incomplete-body", "Cannot read the body: it ended before it was complete");
    }
    await next();
  });
}

/**
 * A body limit that leaves a body of told length to the platform, which reads it whole at once. Hono's own, which counts
 * while it reads, is for those of unknown length.
 */
function limitBody(maxSize: number): MiddlewareHandler<DoorEnv> {
  const refuse = (): never => {
    throw new StorageError("request-too-large", `Cannot take this body: expected at most ${maxSize} bytes`);
  };
  const counting = bodyLimit({ maxSize, onError: refuse });
  return async (c, next) => {
    if (c.req.header("transfer-encoding") !== undefined) return await counting(c, next);
    if (Number(c.req.header("content-length")) > maxSize) refuse();
    await next();
  };
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
