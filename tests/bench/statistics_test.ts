import { assertEquals, assertThrows } from "@std/assert";
import { median, percentile } from "./statistics.ts";

Deno.test("median() answers the middle, or the mean of the two in the middle", () => {
  assertEquals(median([10, 1, 9]), 9);
  assertEquals(median([10, 1, 9, 2]), 5.5);
  assertEquals(median([3]), 3);
});

Deno.test("percentile() answers the value of the nearest rank", () => {
  const values = Array.from({ length: 1000 }, (_, index) => 1000 - index);
  assertEquals([0, 0.5, 0.99, 0.999, 1].map((share) => percentile(values, share)), [1, 500, 990, 999, 1000]);
  assertEquals(percentile([7], 0.99), 7);
});

Deno.test("median() and percentile() refuse no values", () => {
  assertThrows(() => median([]), Error, "Cannot order no values");
  assertThrows(() => percentile([], 0.5), Error, "Cannot order no values");
});
