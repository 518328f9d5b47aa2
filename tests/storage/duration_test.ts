import { assertEquals, assertThrows } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { parseDuration } from "../../src/storage/duration.ts";

Deno.test("parseDuration() reads weeks, days, hours, minutes and seconds", () => {
  for (
    const [text, seconds] of [
      ["PT10S", 10],
      ["PT1M", 60],
      ["PT90M", 5_400],
      ["PT6H", 21_600],
      ["P1D", 86_400],
      ["P2W", 1_209_600],
      ["P1W1DT1H1M1S", 694_861],
      ["P36600D", 3_162_240_000],
    ] as const
  ) assertEquals(parseDuration(text), seconds);
});

Deno.test("parseDuration() refuses what is no duration of fixed length, none at all, or beyond a hundred years", () => {
  for (
    const text of [
      "",
      "P",
      "PT",
      "P1DT",
      "PT0S",
      "P0D",
      "P1M",
      "P1Y",
      "PT1.5H",
      "-PT1H",
      "PT-1H",
      "p1d",
      "1D",
      "P1D ",
      "PT1S1H",
      "P36601D",
      "PT99999999999S",
      "60",
    ]
  ) {
    const { code } = assertThrows(() => parseDuration(text), StorageError, "", text) as StorageError;
    assertEquals(code, "invalid-argument");
  }
});
