/** The blocks of volumes: writing, reading, trimming, and many at once. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import { assertNothingStored, assertProblem, LBA_OUT_OF_RANGE } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const base64 = (firstStamp: number, blockCount: number) => fill(firstStamp, blockCount, 512).toBase64();

async function createVolume(name: string, blockCount = 64): Promise<void> {
  await createTestPool(door, `${name}-pool`);
  await createTestVolume(door, name, { pool: `${name}-pool`, blockCount });
}

async function put(volume: string, lba: number, firstStamp: number, blockCount = 1): Promise<unknown> {
  const octets = fill(firstStamp, blockCount, 512);
  const { status, body } = await door.call("PUT", `/volumes/${volume}/blocks/${lba}`, { octets });
  assertEquals(status, 200, JSON.stringify(body));
  return body;
}

async function readBlocks(path: string): Promise<number[]> {
  const { status, body } = await door.call("GET", path);
  assertEquals(status, 200, JSON.stringify(body));
  return readStamps(body, 512);
}

Deno.test("PUT /volumes/{volume}/blocks/{lba} answers the write's place; a slot is an entry", async () => {
  await createVolume("written");
  assertEquals(await put("written", 0, 1), { sequence: 1, lba: 0, blockCount: 1 });
  assertEquals(await put("written", 63, 2), { sequence: 2, lba: 63, blockCount: 1 });
  // Blocks 2 to 9 lie in three slots of four.
  assertEquals(await put("written", 2, 3, 8), { sequence: 5, lba: 2, blockCount: 8 });
  assertEquals(await put("written", 2, 11), { sequence: 6, lba: 2, blockCount: 1 });
  assertEquals(await readBlocks("/volumes/written/blocks/0?count=11"), [1, 0, 11, 4, 5, 6, 7, 8, 9, 10, 0]);
});

Deno.test("GET /volumes/{volume}/blocks/{lba} reads the same before a flush and after it", async () => {
  await createVolume("moving");
  await put("moving", 0, 1, 6);
  await put("moving", 2, 20);
  assertEquals(await readBlocks("/volumes/moving/blocks/0?count=7"), [1, 2, 20, 4, 5, 6, 0]);
  await door.system.drain();
  assertEquals(await readBlocks("/volumes/moving/blocks/0?count=7"), [1, 2, 20, 4, 5, 6, 0]);
  await put("moving", 5, 30, 2);
  assertEquals(await readBlocks("/volumes/moving/blocks/0?count=7"), [1, 2, 20, 4, 5, 30, 31]);
});

Deno.test("GET /volumes/{volume}/blocks/{lba} answers one block of octets by default", async () => {
  await createVolume("octets");
  await put("octets", 3, 1, 2);
  for (const accept of [undefined, "*/*", "application/octet-stream", "text/html", "image/*;q=0.5"]) {
    const headers: Record<string, string> = accept === undefined ? {} : { accept };
    const answer = await door.call("GET", "/volumes/octets/blocks/3", { headers });
    assertEquals(answer.status, 200);
    assertEquals(answer.headers.get("content-type"), "application/octet-stream");
    assertEquals(answer.headers.get("content-length"), "512");
    assertEquals(answer.headers.get("vary"), "accept");
    assertEquals(answer.body, fill(1, 1, 512));
  }
});

Deno.test("GET /volumes/{volume}/blocks/{lba} answers base64 for Accept: application/json", async () => {
  await createVolume("json");
  const octets = new Uint8Array(512).fill(0xff);
  await door.call("PUT", "/volumes/json/blocks/1", { octets });
  for (const accept of ["application/json", "application/octet-stream;q=0.1, application/json"]) {
    const answer = await door.call("GET", "/volumes/json/blocks/1?count=1", { headers: { accept } });
    assertEquals([answer.status, answer.headers.get("content-type")], [200, "application/json"]);
    // 512 bytes are 170 groups of three and one of two.
    assertEquals(answer.body, { lba: 1, blockCount: 1, data: "/".repeat(682) + "8=" });
  }
});

Deno.test("PUT and GET carry 4 MiB in one request", async () => {
  await createTestVolume(door, "large", { blockCount: 10_000 });
  const octets = fill(1, 8192, 512);
  const written = await door.call("PUT", "/volumes/large/blocks/1808", { octets });
  assertEquals([written.status, written.body.blockCount], [200, 8192]);
  const read = await door.call("GET", "/volumes/large/blocks/1808?count=8192");
  assertEquals(read.status, 200);
  assertEquals(read.body.length, 4_194_304);
  assertEquals(readStamps(read.body, 512), Array.from({ length: 8192 }, (_, block) => block + 1));
  const json = await door.call("GET", "/volumes/large/blocks/1808?count=8192", {
    headers: { accept: "application/json" },
  });
  assertEquals(Uint8Array.fromBase64(json.body.data), octets);
});

Deno.test("PUT takes a body in chunks of unknown length", async () => {
  await createVolume("chunked");
  const octets = fill(1, 3, 512);
  const response = await fetch(`${door.url}/volumes/chunked/blocks/0`, {
    method: "PUT",
    headers: {
      authorization: "Bearer door-token-0123456789",
      "content-type": "application/octet-stream",
    },
    body: ReadableStream.from([octets.subarray(0, 100), octets.subarray(100, 700), octets.subarray(700)]),
  });
  assertEquals(await response.json(), { sequence: 1, lba: 0, blockCount: 3 });
  assertEquals(await readBlocks("/volumes/chunked/blocks/0?count=4"), [1, 2, 3, 0]);
});

Deno.test("DELETE /volumes/{volume}/blocks/{lba} makes blocks read as zeros, one by default", async () => {
  await createVolume("trimmed");
  await put("trimmed", 0, 1, 8);
  const one = await door.call("DELETE", "/volumes/trimmed/blocks/1");
  assertEquals([one.status, one.body], [200, { sequence: 3, lba: 1, blockCount: 1 }]);
  const many = await door.call("DELETE", "/volumes/trimmed/blocks/3?count=3");
  assertEquals([many.status, many.body], [200, { sequence: 5, lba: 3, blockCount: 3 }]);
  const contents = [1, 0, 3, 0, 0, 0, 7, 8];
  assertEquals(await readBlocks("/volumes/trimmed/blocks/0?count=8"), contents);
  await door.system.drain();
  assertEquals(await readBlocks("/volumes/trimmed/blocks/0?count=8"), contents);
  await put("trimmed", 4, 9);
  assertEquals(await readBlocks("/volumes/trimmed/blocks/3?count=3"), [0, 9, 0]);
});

Deno.test("DELETE /volumes/{volume}/blocks/{lba} of what was never written has a place in the queue, and takes no segment", async () => {
  await createVolume("untouched");
  const { status, body } = await door.call("DELETE", "/volumes/untouched/blocks/0?count=64");
  assertEquals([status, body], [200, { sequence: 1, lba: 0, blockCount: 64 }]);
  assertEquals((await door.call("GET", "/pools/untouched-pool")).body.mappedBytes, 0);
});

Deno.test("DELETE /volumes/{volume}/blocks/{lba} leaves a snapshot before it as it is", async () => {
  await createVolume("kept");
  await put("kept", 0, 1, 4);
  await door.call("POST", "/snapshots", { json: { volumes: ["kept"], name: "before-trim" } });
  await door.call("DELETE", "/volumes/kept/blocks/0?count=4");
  for (let flushed = 0; flushed < 2; flushed++) {
    assertEquals(await readBlocks("/volumes/kept/blocks/0?count=4"), [0, 0, 0, 0]);
    assertEquals(await readBlocks("/snapshots/before-trim/blocks/0?count=4"), [1, 2, 3, 4]);
    await door.system.drain();
  }
});

Deno.test("POST /volumes/{volume}/writes writes and trims in order, as one", async () => {
  await createVolume("many");
  await put("many", 0, 90, 4);
  const { status, body } = await door.call("POST", "/volumes/many/writes", {
    json: {
      writes: [
        { lba: 10, data: base64(1, 3) },
        { lba: 0, trim: 2 },
        { lba: 11, trim: 1 },
        { lba: 1, data: base64(7, 1) },
        { lba: 10, data: base64(8, 1) },
      ],
    },
  });
  // One entry before; blocks 10 to 12 lie in two slots.
  assertEquals([status, body], [200, { sequence: 7, blockCount: 8 }]);
  const contents = { low: [0, 7, 92, 93], high: [8, 0, 3] };
  const read = async () => ({
    low: await readBlocks("/volumes/many/blocks/0?count=4"),
    high: await readBlocks("/volumes/many/blocks/10?count=3"),
  });
  assertEquals(await read(), contents);
  await door.system.drain();
  assertEquals(await read(), contents);
});

Deno.test("POST /volumes/{volume}/writes stores nothing when one of its writes is refused", async () => {
  await createVolume("whole");
  await put("whole", 0, 1, 2);
  for (const refused of [{ lba: 64, data: base64(9, 1) }, { lba: 63, trim: 2 }, { lba: -1, trim: 1 }]) {
    const writes = [{ lba: 0, data: base64(5, 1) }, { lba: 1, trim: 1 }, refused];
    await assertNothingStored(door, async () => {
      assertProblem(
        await door.call("POST", "/volumes/whole/writes", { json: { writes } }),
        LBA_OUT_OF_RANGE,
      );
    });
  }
  assertEquals(await readBlocks("/volumes/whole/blocks/0?count=3"), [1, 2, 0]);
});

Deno.test("POST /volumes/{volume}/writes is wholly before a marker or wholly behind it", async () => {
  await createVolume("atomic");
  const rounds = Array.from({ length: 30 }, (_, round) => round + 1);
  const writing = (async () => {
    for (const round of rounds) {
      const writes = [0, 20, 40, 60].map((lba) => ({ lba, data: base64(round, 1) }));
      assertEquals((await door.call("POST", "/volumes/atomic/writes", { json: { writes } })).status, 200);
    }
  })();
  const snapshots: string[] = [];
  for (const _ of rounds) {
    const { status, body } = await door.call("POST", "/snapshots", { json: { volumes: ["atomic"] } });
    assertEquals(status, 202);
    snapshots.push(body.id);
  }
  await writing;
  for (const snapshot of snapshots) {
    const stamps = await readBlocks(`/snapshots/${snapshot}/blocks/0?count=64`);
    const written = [0, 20, 40, 60].map((lba) => stamps[lba]);
    assertEquals(new Set(written).size, 1, `torn: ${written}`);
  }
});

Deno.test("a block that holds the marker's byte pattern is an ordinary block", async () => {
  await createTestPool(door, "pattern");
  await createTestVolume(door, "pattern-v", { pool: "pattern" });
  const marker = new TextEncoder().encode("$$$$$SNAPSHOTMARKER****.");
  const octets = new Uint8Array(1024);
  octets.set(marker);
  for (let at = 512; at + marker.length <= 1024; at += marker.length) octets.set(marker, at);
  assertEquals((await door.call("PUT", "/volumes/pattern-v/blocks/0", { octets })).body.sequence, 1);
  const writes = [{ lba: 2, data: octets.toBase64() }];
  assertEquals((await door.call("POST", "/volumes/pattern-v/writes", { json: { writes } })).body.sequence, 2);
  const { body: { entries } } = await door.call("GET", "/pools/pattern/cache");
  assertEquals(
    entries.map(({ kind, sizeBytes, payload }: Record<string, unknown>) => [kind, sizeBytes, payload]),
    [["write", 1024, undefined], ["write", 1024, undefined]],
  );
  const twice = new Uint8Array([...octets, ...octets]);
  const read = async () => (await door.call("GET", "/volumes/pattern-v/blocks/0?count=4")).body;
  assertEquals(await read(), twice);
  await door.system.drain();
  assertEquals(await read(), twice);
  assertEquals((await door.call("GET", "/snapshots?pool=pattern")).body, { snapshots: [] });
});
