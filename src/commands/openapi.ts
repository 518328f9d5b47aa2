/**
 * `openapi`: writes `openapi.yaml` from the routes, or with `--check` tells whether it is up to date.
 */

import { HTTP_LIMITS, STORAGE_LIMITS } from "../config.ts";
import { createApp } from "../http/app.ts";
import { ClientLoads } from "../http/client_load.ts";
import { describeDoor, toYaml } from "../http/documents.ts";
import { Metrics } from "../http/metrics.ts";
import { TimeLimits } from "../http/time_limits.ts";
import type { Storage } from "../storage/storage.ts";

const FILE = new URL("../../openapi.yaml", import.meta.url);

/** @throws {Error} with `check`, when the file is not what the routes say. */
export async function writeOpenapi({ check }: { check: boolean }): Promise<void> {
  const yaml = describe();
  if (!check) return await Deno.writeTextFile(FILE, yaml);
  const found = await Deno.readTextFile(FILE).catch(() => "");
  if (found !== yaml) throw new Error("Cannot pass: openapi.yaml is out of date; run `deno task openapi`");
  console.log("openapi.yaml is up to date");
}

/** The routes describe themselves; nothing is served, so no storage is needed. */
function describe(): string {
  const limits = { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax };
  const app = createApp({
    storage: undefined as unknown as Storage,
    limits,
    loads: new ClientLoads(limits, () => 0),
    timeLimits: new TimeLimits(() => 0),
    metrics: new Metrics(),
    cacheBytesMax: 0,
    authenticate: () => undefined,
    onBackground: () => {},
    onRequest: () => {},
    onFault: () => {},
    onCorrupt: () => {},
    stopping: AbortSignal.abort(),
  });
  return toYaml(describeDoor(app));
}
