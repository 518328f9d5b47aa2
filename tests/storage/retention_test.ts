import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { StorageError } from "../../src/errors.ts";
import { chooseKept, type Keep, requireKeep } from "../../src/storage/retention.ts";

interface Case {
  readonly what: string;
  readonly keep: Keep;
  readonly timeZone?: string;
  /** Newest first. */
  readonly kept: string[];
  readonly gone: string[];
}

const CASES: Case[] = [
  {
    what: "last keeps the newest",
    keep: { last: 2 },
    kept: ["2026-05-03T00:00Z", "2026-05-02T00:00Z"],
    gone: ["2026-05-01T23:00Z", "2026-05-01T00:00Z"],
  },
  {
    what: "days without a snapshot do not count",
    keep: { daily: 3 },
    kept: ["2026-05-20T12:00Z", "2026-05-10T23:59Z", "2026-01-01T00:00Z"],
    gone: ["2026-05-20T11:59Z", "2026-05-10T00:00Z", "2025-12-31T23:59Z"],
  },
  {
    what: "an hour that comes twice when summer time ends is two",
    keep: { hourly: 4 },
    timeZone: "Europe/Berlin",
    // 03:00, 02:30 and 02:00 winter time, 02:30 and 02:00 summer time, 01:30
    kept: ["2026-10-25T02:00Z", "2026-10-25T01:30Z", "2026-10-25T00:30Z", "2026-10-24T23:30Z"],
    gone: ["2026-10-25T01:00Z", "2026-10-25T00:00Z", "2026-10-24T23:00Z", "2026-10-24T22:30Z"],
  },
  {
    what: "hours by the clock of a zone that is half an hour off",
    keep: { hourly: 2 },
    timeZone: "Asia/Kolkata",
    kept: ["2026-05-01T00:31Z", "2026-05-01T00:29Z"],
    gone: ["2026-04-30T23:31Z"],
  },
  {
    what: "a day of 25 hours is one",
    keep: { daily: 3 },
    timeZone: "Europe/Berlin",
    kept: ["2026-10-25T23:00Z", "2026-10-25T22:59Z", "2026-10-24T21:59Z"],
    gone: ["2026-10-24T22:00Z", "2026-10-24T00:00Z"],
  },
  {
    what: "a day of 23 hours is one",
    keep: { daily: 3 },
    timeZone: "America/New_York",
    kept: ["2026-03-09T04:00Z", "2026-03-09T03:59Z", "2026-03-08T04:59Z"],
    gone: ["2026-03-08T05:00Z"],
  },
  {
    what: "weeks begin on Monday, also across a year's end",
    keep: { weekly: 2 },
    kept: ["2027-01-04T00:00Z", "2027-01-03T23:59Z"],
    gone: ["2026-12-31T12:00Z", "2026-12-28T00:00Z", "2026-12-27T23:59Z"],
  },
  {
    what: "months end where they end",
    keep: { monthly: 3 },
    kept: ["2028-03-01T00:00Z", "2028-02-29T23:59Z", "2028-01-31T23:59Z"],
    gone: ["2028-02-28T00:00Z", "2028-02-01T00:00Z", "2028-01-30T00:00Z", "2027-12-31T23:59Z"],
  },
  {
    what: "months end by the zone's clock",
    keep: { monthly: 2 },
    timeZone: "Europe/Berlin",
    kept: ["2026-02-28T23:30Z", "2026-02-28T22:30Z"],
    gone: ["2026-02-01T00:00Z", "2026-01-31T23:30Z", "2026-01-31T22:30Z"],
  },
  {
    what: "for counts back from the newest, its end included",
    keep: { for: "P1D" },
    kept: ["2026-05-03T12:00Z", "2026-05-02T12:00Z"],
    gone: ["2026-05-02T11:59Z", "2020-01-01T00:00Z"],
  },
  {
    what: "what any rule keeps is kept",
    keep: { last: 1, daily: 2, monthly: 2, for: "PT1H" },
    kept: ["2026-05-03T12:00Z", "2026-05-03T11:30Z", "2026-05-02T23:00Z", "2026-04-30T00:00Z"],
    gone: ["2026-05-03T10:00Z", "2026-05-02T22:00Z", "2026-04-29T00:00Z", "2026-03-31T00:00Z"],
  },
  {
    what: "the newest is kept",
    keep: { for: "PT1S" },
    kept: ["2026-05-03T12:00Z"],
    gone: ["2026-05-03T11:00Z"],
  },
];

for (const { what, keep, timeZone = "UTC", kept, gone } of CASES) {
  Deno.test(`chooseKept(): ${what}`, () => {
    const moments = [...kept, ...gone].toSorted().toReversed();
    const verdicts = chooseKept(moments.map((moment) => new Date(moment)), keep, timeZone);
    assertEquals(moments.filter((_, index) => verdicts[index]), kept);
  });
}

const count = fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined });
const keeps = fc.record({
  last: count,
  hourly: count,
  daily: count,
  weekly: count,
  monthly: count,
  for: fc.option(fc.constantFrom("PT1S", "PT3H", "P2D", "P6W"), { nil: undefined }),
}).map((keep) => Object.fromEntries(Object.entries(keep).filter(([, rule]) => rule !== undefined)) as Keep)
  .filter((keep) => Object.keys(keep).length > 0);
/** Of two years, some of them close to each other, newest first. */
const timelines = fc.array(
  fc.tuple(fc.integer({ min: 0, max: 104 }), fc.integer({ min: 0, max: 7 * 86_400 })),
  { minLength: 1, maxLength: 80 },
).map((spots) =>
  spots.map(([week, second]) => new Date(Date.UTC(2026, 0, 1) + (week * 7 * 86_400 + second) * 1_000))
    .toSorted((a, b) => b.getTime() - a.getTime())
);
const zones = fc.constantFrom("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia");

Deno.test("chooseKept() keeps the newest, what each rule alone keeps and nothing else, and all of that again", () => {
  fc.assert(fc.property(timelines, keeps, zones, (moments, keep, zone) => {
    const kept = chooseKept(moments, keep, zone);
    assertEquals(kept[0], true);
    const alone = Object.entries(keep).map(([rule, value]) => chooseKept(moments, { [rule]: value }, zone));
    assertEquals(kept, moments.map((_, index) => alone.some((verdicts) => verdicts[index])));
    const left = moments.filter((_, index) => kept[index]);
    assertEquals(chooseKept(left, keep, zone).every((verdict) => verdict), true);
    if (keep.for !== undefined) return;
    const most = Object.values(keep as Record<string, number>).reduce((sum, rule) => sum + rule, 0);
    assertEquals(left.length <= most, true);
  }));
});

Deno.test("requireKeep() refuses no rule, and counts that are none", () => {
  for (
    const keep of [{}, { last: 0 }, { daily: -1 }, { hourly: 1.5 }, { last: 10_001 }, { for: "1 day" }, {
      last: NaN,
    }]
  ) {
    assertEquals(
      (assertThrows(() => requireKeep(keep), StorageError) as StorageError).code,
      "invalid-argument",
    );
  }
  requireKeep({ last: 10_000, for: "P1D" });
});
