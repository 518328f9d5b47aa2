/**
 * `/health/live` and `/health/ready`, open to everyone.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Door, DoorApp } from "./door.ts";
import { jsonResponse } from "./schema.ts";

const Readiness = z.object({
  ready: z.boolean(),
  database: z.boolean().openapi({ description: "It answers" }),
  migrations: z.boolean().openapi({ description: "Its schema is this version's" }),
  flusher: z.enum(["running", "stalled", "elsewhere"]).openapi({
    description: "elsewhere: in other processes",
  }),
}).openapi("Readiness");

const liveRoute = createRoute({
  method: "get",
  path: "/health/live",
  operationId: "checkLive",
  summary: "Whether the server runs",
  tags: ["health"],
  security: [],
  responses: { 200: jsonResponse("It does", z.object({ live: z.literal(true) })) },
});

const readyRoute = createRoute({
  method: "get",
  path: "/health/ready",
  operationId: "checkReady",
  summary: "Whether requests can be served: database, migrations, flusher",
  tags: ["health"],
  security: [],
  responses: { 200: jsonResponse("They can", Readiness), 503: jsonResponse("They cannot", Readiness) },
});

export function registerHealth(app: DoorApp, { storage, stopping }: Door): void {
  app.openapi(liveRoute, (c) => c.json({ live: true as const }, 200));

  app.openapi(readyRoute, async (c) => {
    const readiness = await storage.checkReadiness();
    const ready = readiness.database && readiness.migrations && readiness.flusher !== "stalled" &&
      !stopping.aborted;
    return c.json({ ready, ...readiness }, ready ? 200 : 503);
  });
}
