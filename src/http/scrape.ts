/**
 * `/metrics`: the figures of this process and of the pools, in Prometheus' text format. It answers in bounded time, whatever the
 * database does, and asks it once however many scrapes wait.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { PoolFigures } from "../storage/pool_figures.ts";
import type { Door, DoorApp } from "./door.ts";
import { METRICS_TYPE } from "./metrics.ts";
import { PROBLEM_RESPONSE } from "./schema.ts";

/** Well below Prometheus' usual limit of 10 s for a scrape. */
const POOLS_MS_MAX = 2_000;

const metricsRoute = createRoute({
  method: "get",
  path: "/metrics",
  operationId: "readMetrics",
  summary: "Figures for Prometheus",
  description: "What is under `snapmark_pool_` is of the pool, the rest of the process that answers.",
  tags: ["health"],
  responses: {
    200: { description: "The figures", content: { [METRICS_TYPE]: { schema: z.string() } } },
    default: PROBLEM_RESPONSE,
  },
});

export function registerMetrics(app: DoorApp, { storage, metrics, loads }: Door): void {
  let reading: Promise<PoolFigures[] | undefined> | undefined;
  const readPools = () =>
    reading ??= storage.readPoolFigures().catch(() => undefined).finally(() => reading = undefined);

  app.openapi(metricsRoute, async (c) => {
    const late = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => late.resolve(undefined), POOLS_MS_MAX);
    const pools = await Promise.race([readPools(), late.promise]);
    clearTimeout(timer);
    metrics.showLoads(loads.figures);
    return c.text(await metrics.render(pools, new Date()), 200, { "content-type": METRICS_TYPE });
  });
}
