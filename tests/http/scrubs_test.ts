/** `/devices/{device}/scrub`. */

import { assertEquals } from "@std/assert";
import { damage, DAMAGES } from "../support/damage.ts";
import { createTestDoor, createTestPool, createTestVolume, until } from "../support/door.ts";
import { fill } from "../support/history.ts";

Deno.test("POST /devices/{device}/scrub scrubs in the background, and tells what it finds by state, event, figure and audit", async () => {
  await using door = await createTestDoor({ flusher: true });
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 12, 512) });
  await door.call("POST", "/pools/main/flush");
  await damage(door.system.test.database, "blocks", 5, DAMAGES["a bit of it"].flushed);
  const asked = await door.call("POST", "/devices/main-1/scrub");
  assertEquals([asked.status, asked.body.status], [202, "running"]);
  const state = async () => (await door.call("GET", "/devices/main-1/scrub?pool=main")).body;
  await until(async () => (await state()).status === "done");
  const scrub = await state();
  assertEquals([scrub.id, scrub.blocksChecked, scrub.blocksCorrupt], [asked.body.id, 12, 1]);
  assertEquals([scrub.corrupt[0].segmentId, scrub.corrupt[0].block, scrub.corrupt[0].lba], [1, 1, 5]);
  const { body: { events } } = await door.call(
    "GET",
    "/events?type=scrub.started,scrub.corrupt,scrub.finished",
  );
  assertEquals(events.map(({ type }: { type: string }) => type), [
    "scrub.started",
    "scrub.corrupt",
    "scrub.finished",
  ]);
  assertEquals([events[1].deviceId, events[1].data.corrupt], [scrub.deviceId, scrub.corrupt]);
  const { body: figures } = await door.call("GET", "/metrics");
  assertEquals(/^snapmark_pool_scrub_corrupt_blocks\{pool="main"\} (\d+)$/m.exec(figures)?.[1], "1");
  const { body: { records } } = await door.call("GET", "/audit");
  const last = records.at(-1);
  assertEquals([last.action, last.targetId, last.origin], [
    "scrub.start",
    scrub.deviceId,
    "http POST /devices/main-1/scrub",
  ]);
});

Deno.test("DELETE /devices/{device}/scrub ends it, and a device that was never scrubbed has none", async () => {
  await using door = await createTestDoor();
  await createTestPool(door, "other");
  for (const method of ["GET", "DELETE"]) {
    const { status, body } = await door.call(method, "/devices/other-1/scrub");
    assertEquals([status, body.code], [404, "scrub-not-found"]);
  }
  const { body: { id } } = await door.call("POST", "/devices/other-1/scrub?pool=other");
  const again = await door.call("POST", "/devices/other-1/scrub");
  assertEquals([again.status, again.body.id], [202, id]);
  const cancelled = await door.call("DELETE", "/devices/other-1/scrub");
  assertEquals([cancelled.status, cancelled.body.id, cancelled.body.status], [200, id, "cancelled"]);
  assertEquals((await door.call("GET", "/devices/other-1/scrub")).body, cancelled.body);
});
