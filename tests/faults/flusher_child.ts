/**
 * A flusher in a process of its own that kills itself, as SIGKILL does, when it reaches a step.
 *
 * Arguments: database URL, name of the step.
 */

import { STORAGE_LIMITS } from "../../src/config.ts";
import { openDatabase } from "../../src/database/client.ts";
import { Flusher } from "../../src/storage/flusher.ts";

const [url, point] = Deno.args;
const flusher = new Flusher(openDatabase(url), {
  limits: STORAGE_LIMITS,
  clock: () => new Date(),
  onFault: (error) => {
    throw error;
  },
  onPoint: (reached) => {
    if (reached === point) Deno.kill(Deno.pid, "SIGKILL");
  },
});
while (await flusher.sweep());
