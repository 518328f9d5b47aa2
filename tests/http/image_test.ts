/** Downloads of whole images. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, DOOR_TOKEN, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { type Refusal, refusalsOf, sense, VOLUME_NOT_FOUND } from "./problem.ts";

/** Of 512 bytes: two and a half pieces. */
const BLOCKS = 5_120;
const BYTES = BLOCKS * 512;
const AUTHORIZED = { authorization: `Bearer ${DOOR_TOKEN}` };

let door: TestDoor;
const expected = new Uint8Array(BYTES);
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: BLOCKS });
  await createTestVolume(door, "w", { blockCount: 1 });
  for (const [lba, stamp, blockCount] of [[0, 1, 3], [2_047, 10, 4], [5_119, 20, 1]]) {
    const octets = fill(stamp, blockCount, 512);
    expected.set(octets, lba * 512);
    await door.call("PUT", `/volumes/v/blocks/${lba}`, { octets });
  }
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], lba: 1, blockCount: 2, name: "part" } });
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(99, 1, 512) });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const OUTSIDE_SNAPSHOT: Refusal = { status: 422, code: "outside-snapshot", scsi: sense(0x5, 0x21, 0x00) };
refuses("an unknown snapshot", ["GET", "/snapshots/no/image"], { status: 404, code: "snapshot-not-found" });
refuses("an unknown volume", ["GET", "/snapshots/s/image?volume=no"], VOLUME_NOT_FOUND);
refuses("a volume it does not cover", ["GET", "/snapshots/s/image?volume=w"], OUTSIDE_SNAPSHOT);
refuses("a part of a volume", ["GET", "/snapshots/part/image"], OUTSIDE_SNAPSHOT);
refuses("a range behind the end", ["GET", "/snapshots/s/image", { headers: { range: `bytes=${BYTES}-` } }], {
  status: 416,
  code: "range-not-satisfiable",
});

Deno.test("GET …/image answers all bytes of the volume as the snapshot has it", async () => {
  const { status, headers, body } = await door.call("GET", "/snapshots/s/image");
  assertEquals([status, headers.get("content-length"), headers.get("accept-ranges")], [
    200,
    String(BYTES),
    "bytes",
  ]);
  assertEquals(body.length, BYTES);
  assertEquals(body, expected);
});

Deno.test("HEAD …/image tells the size and reads nothing", async () => {
  const response = await fetch(`${door.url}/snapshots/s/image`, { method: "HEAD", headers: AUTHORIZED });
  assertEquals(await response.bytes(), new Uint8Array());
  assertEquals([response.status, response.headers.get("content-length")], [200, String(BYTES)]);
});

Deno.test("GET …/image answers ranges: in pieces, across them, and from the end", async () => {
  for (
    const [range, start, end] of [
      ["bytes=0-99", 0, 100],
      ["bytes=100-511", 100, 512],
      ["bytes=1048000-1050000", 1_048_000, 1_050_001],
      ["bytes=700-", 700, BYTES],
      ["bytes=-513", BYTES - 513, BYTES],
    ] as [string, number, number][]
  ) {
    const { status, headers, body } = await door.call("GET", "/snapshots/s/image", { headers: { range } });
    assertEquals([status, headers.get("content-range")], [206, `bytes ${start}-${end - 1}/${BYTES}`], range);
    assertEquals(headers.get("content-length"), String(end - start));
    assertEquals(body, expected.subarray(start, end), range);
  }
  const { headers } = await door.call("GET", "/snapshots/s/image", {
    headers: { range: `bytes=${BYTES}-` },
  });
  assertEquals(headers.get("content-range"), `bytes */${BYTES}`);
});

Deno.test("GET …/image: an ETag resumes a download, and spares one", async () => {
  const { headers } = await door.call("GET", "/snapshots/s/image");
  const etag = headers.get("etag") as string;
  const part = await door.call("GET", "/snapshots/s/image", {
    headers: { range: "bytes=1-1", "if-range": etag },
  });
  assertEquals(part.status, 206);
  const other = await door.call("GET", "/snapshots/s/image", {
    headers: { range: "bytes=1-1", "if-range": '"x"' },
  });
  assertEquals([other.status, other.body.length], [200, BYTES]);
  const spared = await door.call("GET", "/snapshots/s/image", {
    headers: { "if-none-match": `"x", W/${etag}` },
  });
  assertEquals([spared.status, spared.headers.get("etag")], [304, etag]);
});

Deno.test("GET …/image goes at its reader's pace, and a reader that goes away ends it", async () => {
  const response = await fetch(`${door.url}/snapshots/s/image`, { headers: AUTHORIZED });
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const { value } = await reader.read();
  assertEquals(value, expected.subarray(0, value?.length));
  await reader.cancel();
  assertEquals((await door.call("GET", "/pools/main")).status, 200);
});
