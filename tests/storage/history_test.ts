import { assert } from "@std/assert";
import { runHistories } from "../support/random_history.ts";

const STEPS_MIN = 10_000;
const LONG_STEPS = 2_000;
const SHORT_STEPS = 100;

Deno.test("random histories of 10,000 steps, one of 2,000, equal their model, and leave every segment free or mapped once", async () => {
  const long = await runHistories(1, LONG_STEPS);
  const short = await runHistories(Math.ceil((STEPS_MIN - long) / SHORT_STEPS), SHORT_STEPS);
  assert(long + short >= STEPS_MIN);
});
