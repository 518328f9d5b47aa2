/**
 * `deno task soak-histories`: random histories, short ones and long ones, for as long as `SOAK_MINUTES` says, 10 unless given. A failure prints the history, shrunk,
 * and its seed.
 */

import { runHistories } from "../support/random_history.ts";

const MINUTES_DEFAULT = 10;
const SHORT_RUNS = 10;
const SHORT_STEPS = 100;
const LONG_STEPS = 3_000;

Deno.test("random histories, as long as told", async () => {
  const minutes = Number(Deno.env.get("SOAK_MINUTES") ?? MINUTES_DEFAULT);
  const until = Date.now() + minutes * 60_000;
  let steps = 0;
  while (Date.now() < until) {
    const seed = crypto.getRandomValues(new Int32Array(1))[0];
    steps += await runHistories(SHORT_RUNS, SHORT_STEPS, seed);
    steps += await runHistories(1, LONG_STEPS, seed);
    console.log(`${steps} steps, the last seed was ${seed}`);
  }
});
