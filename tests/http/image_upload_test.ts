/** Uploads of whole images, and that what goes out comes back equal. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, DOOR_TOKEN, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { INVALID_REQUEST, LBA_OUT_OF_RANGE, type Refusal, refusalsOf, VOLUME_NOT_FOUND } from "./problem.ts";

/** Of 512 bytes: five pieces of 1,024 blocks, and a half. */
const BLOCKS = 5_632;
const BYTES = BLOCKS * 512;

let door: TestDoor;
const image = new Uint8Array(BYTES);
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  for (const [lba, stamp, count] of [[0, 1, 3], [1_000, 50, 60], [3_071, 500, 2], [5_631, 9, 1]]) {
    image.set(fill(stamp, count, 512), lba * 512);
  }
  await createTestVolume(door, "v", { blockCount: BLOCKS });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const put = (octets: Uint8Array, headers: Record<string, string> = {}, volume = "v") =>
  ["PUT", `/volumes/${volume}/image`, { octets, headers }] as [string, string, object];
const NOT_WHOLE_BLOCKS: Refusal = { status: 422, code: "not-whole-blocks" };
const UNSUPPORTED: Refusal = { status: 415, code: "unsupported-media-type" };
const some = new Uint8Array(1024);

refuses("an unknown volume", put(some, {}, "no"), VOLUME_NOT_FOUND);
refuses("half a block", put(new Uint8Array(256)), NOT_WHOLE_BLOCKS);
refuses("no byte", put(new Uint8Array(0)), NOT_WHOLE_BLOCKS);
refuses("more than the volume has", put(new Uint8Array(BYTES + 512)), LBA_OUT_OF_RANGE);
refuses("another type", put(some, { "content-type": "text/plain" }), UNSUPPORTED);
refuses("an encoded body", put(some, { "content-encoding": "gzip" }), UNSUPPORTED);
for (const range of ["bytes 0-1023", "bytes 1-0/*", "lines 0-1/2", "bytes 0-2047/*", "bytes */1024"]) {
  refuses(`Content-Range ${range}`, put(some, { "content-range": range }), INVALID_REQUEST);
}
refuses("a range within a block", put(some, { "content-range": "bytes 100-1123/*" }), NOT_WHOLE_BLOCKS);
refuses(
  "a range behind the end",
  put(some, { "content-range": `bytes ${BYTES}-${BYTES + 1023}/*` }),
  LBA_OUT_OF_RANGE,
);
refuses("another size", put(some, { "content-range": "bytes 0-1023/1024" }), LBA_OUT_OF_RANGE);

async function readImage(volume: string): Promise<Uint8Array> {
  const { body: { id } } = await door.call("POST", "/snapshots", { json: { volumes: [volume] } });
  return (await door.call("GET", `/snapshots/${id}/image`)).body;
}

Deno.test("PUT …/image takes an image that comes back equal, and stores no zeros", async () => {
  await createTestVolume(door, "a", { blockCount: BLOCKS });
  const { status, body } = await door.call(...put(image, {}, "a"));
  assertEquals([status, body.lba, body.blockCount], [200, 0, BLOCKS]);
  const { body: { ranges } } = await door.call("GET", "/volumes/a/ranges");
  assertEquals(ranges, [
    { lba: 0, blockCount: 3 },
    { lba: 1_000, blockCount: 60 },
    { lba: 3_071, blockCount: 2 },
    { lba: 5_631, blockCount: 1 },
  ]);
  await createTestVolume(door, "b", { blockCount: BLOCKS });
  assertEquals((await door.call(...put(await readImage("a"), {}, "b"))).status, 200);
  assertEquals(await readImage("b"), image);
});

Deno.test("PUT …/image clears what the image does not have, and goes on from a Content-Range", async () => {
  await createTestVolume(door, "c", { blockCount: BLOCKS });
  await door.call("PUT", "/volumes/c/blocks/40", { octets: fill(7, 100, 512) });
  const middle = 3_072 * 512;
  const headers = (first: number, end: number) => ({ "content-range": `bytes ${first}-${end - 1}/${BYTES}` });
  const second = await door.call(...put(image.subarray(middle), headers(middle, BYTES), "c"));
  assertEquals([second.status, second.body.lba], [200, 3_072]);
  assertEquals((await door.call(...put(image.subarray(0, middle), headers(0, middle), "c"))).status, 200);
  assertEquals(await readImage("c"), image);
});

Deno.test("PUT …/image that is broken off keeps what came, and the server goes on", async () => {
  await createTestVolume(door, "d", { blockCount: BLOCKS });
  using connection = await Deno.connect({ port: door.port });
  const writer = connection.writable.getWriter();
  const authorization = `Bearer ${DOOR_TOKEN}`;
  await writer.write(new TextEncoder().encode(
    `PUT /volumes/d/image HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\n` +
      `content-type: application/octet-stream\r\ncontent-length: ${BYTES}\r\n\r\n`,
  ));
  const piece = 1_024 * 512;
  await writer.write(fill(1, 1_024, 512));
  for (let looks = 0; looks < 10_000; looks++) {
    if ((await door.call("GET", "/volumes/d/ranges")).body.ranges.length > 0) break;
  }
  await writer.abort();
  assertEquals((await readImage("d")).subarray(0, piece), fill(1, 1_024, 512));
  assertEquals((await door.call("GET", "/pools/main")).status, 200);
});
