import { assertEquals } from "@std/assert";
import { FreeChoice, type FreeSegment } from "../../src/storage/free_list.ts";

const A = "a";
const B = "b";
const of = (deviceId: string, ...ids: number[]): FreeSegment[] =>
  ids.map((segmentId) => ({ segmentId, deviceId, returned: false }));
const ids = (segments: FreeSegment[]) => segments.map(({ segmentId }) => segmentId);

Deno.test("FreeChoice gives out each segment once, in the order of the list", () => {
  const free = new FreeChoice(of(A, 1, 2, 3, 4), new Map());
  assertEquals([ids(free.take(2)), free.count(), ids(free.take(1)), ids(free.rest)], [[1, 2], 2, [3], [4]]);
});

Deno.test("FreeChoice gives a device's segments to both in one order, so its untouched tail stays one", () => {
  const free = new FreeChoice(
    [...of(A, 1, 2), ...of(B, 10, 11, 12, 13)],
    new Map([[B, of(B, 10, 11, 12, 13)]]),
  );
  assertEquals(ids(free.take(1, B)), [10]);
  assertEquals([free.count(), free.count(B)], [5, 3]);
  assertEquals(ids(free.take(3)), [1, 2, 11]);
  assertEquals(ids(free.take(1, B)), [12]);
  assertEquals([free.count(), free.count(B), ids(free.rest)], [1, 1, [13]]);
  assertEquals([ids(free.take(1)), free.count(B), ids(free.rest)], [[13], 0, []]);
});

Deno.test("FreeChoice has nothing of a device that has nothing", () => {
  assertEquals(new FreeChoice(of(A, 1), new Map([[B, []]])).count(B), 0);
});
