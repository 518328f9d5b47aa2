/** Corrupt data through the door: refused with their place, told once, and an answer that was begun breaks off. */

import { assertEquals, assertRejects } from "@std/assert";
import { damage, DAMAGES } from "../support/damage.ts";
import { createTestDoor, createTestVolume, DOOR_TOKEN, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";

/** Of 512 bytes: one and a half pieces of an image. */
const BLOCKS = 3_072;
/** In the second piece. */
const CORRUPT = 3_000;
const PLACE = "device main-1, segment 750, block 0, sequence 751, flushed: ";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: BLOCKS });
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, BLOCKS, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  await door.system.drain();
  await damage(door.system.test.database, "blocks", CORRUPT, DAMAGES["a bit of it"].flushed);
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

async function countCorrupt(): Promise<number> {
  const { body } = await door.call("GET", "/metrics");
  return Number(/^snapmark_corrupt_reads_total (\d+)$/m.exec(body)?.[1]);
}

/** Asserts that the door was told of corrupt data just once since. */
async function assertToldOnce(before: number): Promise<void> {
  const told = door.corrupt.splice(0);
  assertEquals(told.map(({ message }) => message.includes(PLACE)), [true]);
  assertEquals(await countCorrupt(), before + 1);
}

const READS: Record<string, { path: string; headers?: Record<string, string> }> = {
  "a read by the fast lane": { path: `/volumes/v/blocks/${CORRUPT}` },
  "a read of several": { path: `/volumes/v/blocks/${CORRUPT - 3}?count=9` },
  "a read with a query": { path: `/volumes/v/blocks/${CORRUPT}?pool=main` },
  "a read as JSON": { path: `/volumes/v/blocks/${CORRUPT}`, headers: { accept: "application/json" } },
  "a read of a snapshot": { path: `/snapshots/s/blocks/${CORRUPT}` },
};

for (const [what, { path, headers = {} }] of Object.entries(READS)) {
  Deno.test(`${what} is refused with the place of the corrupt block`, async () => {
    const before = await countCorrupt();
    const { status, body } = await door.call("GET", path, { headers });
    assertEquals([status, body.code], [500, "data-corrupt"]);
    assertEquals(body.scsi, { status: "CHECK CONDITION", senseKey: 3, asc: 0x11, ascq: 0 });
    assertEquals(body.detail.startsWith(`Cannot read LBA ${CORRUPT}: `) && body.detail.includes(PLACE), true);
    await assertToldOnce(before);
  });
}

Deno.test("other blocks are read, and so are images of them", async () => {
  const near = await door.call("GET", `/volumes/v/blocks/${CORRUPT + 1}?count=3`);
  assertEquals([near.status, near.body], [200, fill(CORRUPT + 2, 3, 512)]);
  const range = `bytes=${(CORRUPT + 1) * 512}-`;
  const rest = await door.call("GET", "/snapshots/s/image", { headers: { range } });
  assertEquals([rest.status, rest.body], [206, fill(CORRUPT + 2, BLOCKS - CORRUPT - 1, 512)]);
});

for (
  const [path, range] of [
    ["/snapshots/s/image"],
    ["/snapshots/s/image", `bytes=${CORRUPT * 512 - 9}-${CORRUPT * 512 + 9}`],
    ["/snapshots/s/export"],
  ]
) {
  Deno.test(`GET ${path} ${range ?? ""} breaks off before the piece with a corrupt block`, async () => {
    const before = await countCorrupt();
    const response = await fetch(`${door.url}${path}`, {
      headers: { authorization: `Bearer ${DOOR_TOKEN}`, ...(range === undefined ? {} : { range }) },
    });
    assertEquals([200, 206].includes(response.status), true);
    const received: Uint8Array[] = [];
    await assertRejects(async () => {
      for await (const chunk of response.body ?? []) received.push(chunk);
    });
    const { length } = received.flatMap((chunk) => [...chunk]);
    assertEquals(length <= 1024 * 1024 + 64, true, `${length} bytes came`);
    await assertToldOnce(before);
  });
}
