/**
 * `deno task soak`: random histories for as long as `SOAK_MINUTES` says, 10 unless given. A failure prints the history, shrunk,
 * and its seed.
 */

import { runHistories } from "../support/random_history.ts";

const MINUTES_DEFAULT = 10;
const RUNS_AT_ONCE = 10;

Deno.test("random histories, as long as told", async () => {
  const minutes = Number(Deno.env.get("SOAK_MINUTES") ?? MINUTES_DEFAULT);
  const until = Date.now() + minutes * 60_000;
  let steps = 0;
  while (Date.now() < until) {
    const seed = crypto.getRandomValues(new Int32Array(1))[0];
    steps += await runHistories(RUNS_AT_ONCE, seed);
    console.log(`${steps} steps, the last seed was ${seed}`);
  }
});
