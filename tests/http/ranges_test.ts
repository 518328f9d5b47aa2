/** Ranges and changes over HTTP. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { INVALID_REQUEST, LBA_OUT_OF_RANGE, type Refusal, refusalsOf, VOLUME_NOT_FOUND } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: 64 });
  await createTestVolume(door, "w", { blockCount: 64 });
  await door.call("PUT", "/volumes/v/blocks/4", { octets: fill(1, 8, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "a" } });
  await door.call("DELETE", "/volumes/v/blocks/5");
  await door.call("PUT", "/volumes/v/blocks/40", { octets: fill(1, 2, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "b" } });
  await door.call("POST", "/snapshots", { json: { volumes: ["w"], name: "w" } });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const SNAPSHOT_NOT_FOUND: Refusal = { status: 404, code: "snapshot-not-found" };

refuses("an unknown volume", ["GET", "/volumes/no/ranges"], VOLUME_NOT_FOUND);
refuses("an unknown snapshot", ["GET", "/snapshots/no/ranges"], SNAPSHOT_NOT_FOUND);
refuses("an unknown base", ["GET", "/snapshots/b/changes?base=no"], SNAPSHOT_NOT_FOUND);
refuses("no base", ["GET", "/snapshots/b/changes"], INVALID_REQUEST);
refuses("a later base", ["GET", "/snapshots/a/changes?base=b"], { status: 422, code: "unrelated-snapshots" });
refuses("another volume's base", ["GET", "/snapshots/b/changes?base=w"], {
  status: 422,
  code: "unrelated-snapshots",
});
for (const [what, lba] of [["a negative", "-1"], ["half an", "1.5"]]) {
  refuses(`${what} LBA`, ["GET", `/volumes/v/ranges?startLba=${lba}`], LBA_OUT_OF_RANGE);
  refuses(`${what} LBA`, ["GET", `/snapshots/b/changes?base=a&startLba=${lba}`], LBA_OUT_OF_RANGE);
}
refuses("a word for an LBA", ["GET", "/snapshots/a/ranges?startLba=x"], INVALID_REQUEST);
refuses("no items", ["GET", "/snapshots/a/ranges?maxResults=0"], INVALID_REQUEST);
refuses("a foreign token", ["GET", "/snapshots/a/ranges?pageToken=eA"], INVALID_REQUEST);

Deno.test("GET …/ranges and …/changes answer ascending ranges by pages", async () => {
  assertEquals((await door.call("GET", "/snapshots/a/ranges")).body, { ranges: [{ lba: 4, blockCount: 8 }] });
  const first = await door.call("GET", "/volumes/v/ranges?maxResults=1");
  assertEquals(first.body.ranges, [{ lba: 4, blockCount: 1 }]);
  const rest = await door.call("GET", `/volumes/v/ranges?pageToken=${first.body.nextPageToken}`);
  assertEquals(rest.body, { ranges: [{ lba: 6, blockCount: 6 }, { lba: 40, blockCount: 2 }] });
  assertEquals((await door.call("GET", "/snapshots/b/changes?base=a")).body, {
    changes: [{ lba: 5, blockCount: 1, change: "cleared" }, { lba: 40, blockCount: 2, change: "written" }],
  });
  assertEquals((await door.call("GET", "/snapshots/b/changes?base=a&startLba=41")).body, {
    changes: [{ lba: 41, blockCount: 1, change: "written" }],
  });
});
