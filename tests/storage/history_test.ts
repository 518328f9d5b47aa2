import { assert } from "@std/assert";
import { runHistories } from "../support/random_history.ts";

Deno.test("random histories of 10,000 steps equal their model, and leave every segment free or mapped once", async () => {
  assert(await runHistories(100) >= 10_000);
});
