import { assertEquals, assertThrows } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { nextMoment, type Recurrence, requireRecurrence } from "../../src/storage/recurrence.ts";

const CREATED_AT = new Date("2026-01-01T00:00:07Z");

/** The next moments behind `after`, without their seconds where those are none. */
function moments(recurrence: Recurrence, after: string, count: number): string[] {
  const found: string[] = [];
  let at: Date | undefined = new Date(after);
  while (found.length < count && at !== undefined) {
    at = nextMoment(recurrence, CREATED_AT, at);
    if (at !== undefined) found.push(at.toISOString().replace(/(:00)?\.000Z$/, "Z"));
  }
  return found;
}

const berlin = (cron: string) => ({ cron, timeZone: "Europe/Berlin" });
const newYork = (cron: string) => ({ cron, timeZone: "America/New_York" });

Deno.test("a fixed time in the hour that summer time leaves out comes once, right behind it", () => {
  // Berlin goes from 02:00 to 03:00 at 01:00 UTC, New York at 07:00 UTC.
  assertEquals(moments(berlin("30 2 * * *"), "2026-03-28T00:00:00Z", 3), [
    "2026-03-28T01:30Z",
    "2026-03-29T01:00Z",
    "2026-03-30T00:30Z",
  ]);
  assertEquals(moments(newYork("30 2 * * *"), "2026-03-07T00:00:00Z", 3), [
    "2026-03-07T07:30Z",
    "2026-03-08T07:00Z",
    "2026-03-09T06:30Z",
  ]);
});

Deno.test("a fixed time that comes twice when summer time ends is the first of the two", () => {
  // Berlin goes from 03:00 to 02:00 at 01:00 UTC, New York from 02:00 to 01:00 at 06:00 UTC.
  assertEquals(moments(berlin("30 2 * * *"), "2026-10-24T00:00:00Z", 3), [
    "2026-10-24T00:30Z",
    "2026-10-25T00:30Z",
    "2026-10-26T01:30Z",
  ]);
  assertEquals(moments(newYork("30 1 * * *"), "2026-10-31T00:00:00Z", 3), [
    "2026-10-31T05:30Z",
    "2026-11-01T05:30Z",
    "2026-11-02T06:30Z",
  ]);
});

Deno.test("what comes every hour or oftener goes on through both changes", () => {
  for (const from of ["2026-03-28T23:30:00Z", "2026-10-24T23:30:00Z"]) {
    const hours = Array.from(
      { length: 6 },
      (_, hour) =>
        new Date(Date.parse(from) + (hour + 0.5) * 3_600_000).toISOString().replace(":00.000Z", "Z"),
    );
    assertEquals(moments(berlin("0 * * * *"), from, 6), hours);
  }
  assertEquals(moments(berlin("*/30 * * * *"), "2026-10-25T00:15:00Z", 5), [
    "2026-10-25T00:30Z",
    "2026-10-25T01:00Z",
    "2026-10-25T01:30Z",
    "2026-10-25T02:00Z",
    "2026-10-25T02:30Z",
  ]);
});

Deno.test("patterns name days by number, by name and by the month's end", () => {
  const utc = (cron: string) => ({ cron, timeZone: "UTC" });
  assertEquals(moments(utc("0 0 L * *"), "2028-01-15T00:00:00Z", 3), [
    "2028-01-31T00:00Z",
    "2028-02-29T00:00Z",
    "2028-03-31T00:00Z",
  ]);
  assertEquals(moments(utc("15 6 * * MON-FRI"), "2026-11-27T07:00:00Z", 2), [
    "2026-11-30T06:15Z",
    "2026-12-01T06:15Z",
  ]);
  assertEquals(moments(utc("0 0 29 2 *"), "2026-01-01T00:00:00Z", 1), ["2028-02-29T00:00Z"]);
});

Deno.test("nextMoment() is behind the moment that it is asked for", () => {
  assertEquals(moments(berlin("0 0 * * *"), "2026-06-01T22:00:00Z", 1), ["2026-06-02T22:00Z"]);
  assertEquals(moments(berlin("0 0 * * *"), "2026-06-01T21:59:59.999Z", 1), ["2026-06-01T22:00Z"]);
});

Deno.test("every counts from the creation on, whatever was missed", () => {
  const hourly = { every: "PT1H", timeZone: "Europe/Berlin" };
  assertEquals(moments(hourly, CREATED_AT.toISOString(), 2), [
    "2026-01-01T01:00:07Z",
    "2026-01-01T02:00:07Z",
  ]);
  assertEquals(moments(hourly, "2026-03-29T00:59:59Z", 2), ["2026-03-29T01:00:07Z", "2026-03-29T02:00:07Z"]);
  // A clock that was set back behind the creation: nothing waits until it is there again.
  assertEquals(moments(hourly, "2025-12-31T00:00:00Z", 1), ["2025-12-31T00:00:07Z"]);
});

Deno.test("requireRecurrence() refuses what never comes, what comes too often, and what is none", () => {
  for (
    const recurrence of [
      { timeZone: "UTC" },
      { timeZone: "UTC", cron: "* * * * *", every: "PT1H" },
      { timeZone: "UTC", every: "PT9S" },
      { timeZone: "UTC", every: "1h" },
      { timeZone: "Mars/Base", every: "PT1H" },
      { timeZone: "", every: "PT1H" },
      ...[
        "",
        " ",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 31 2 *",
        "0 0 * * 8",
        "*/0 * * * *",
      ]
        .map((cron) => ({ timeZone: "UTC", cron })),
      { timeZone: "UTC", cron: "0,".repeat(200) + "0 * * * *" },
      { timeZone: "UTC", cron: "2026-01-01T00:00:00" },
    ]
  ) {
    const what = JSON.stringify(recurrence);
    const { code } = assertThrows(
      () => requireRecurrence(recurrence, 10),
      StorageError,
      "",
      what,
    ) as StorageError;
    assertEquals(code, "invalid-argument");
  }
  requireRecurrence({ timeZone: "europe/berlin", every: "PT10S" }, 10);
  requireRecurrence({ timeZone: "America/New_York", cron: "@daily" }, 10);
});
