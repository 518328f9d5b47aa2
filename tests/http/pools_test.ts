/** `/pools`: what they are, how they stand, and their queues. */

import { assertEquals, assertMatch } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { NO_LIFE } from "../../src/storage/life.ts";
import { readPages } from "./paging.ts";

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const ADMIN_ID = "00000000-0000-7000-8000-000000000001";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor({ poolCacheBytesMax: 777_216 });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

Deno.test("GET /pools/{pool} tells how a new pool stands", async () => {
  const { status, body } = await door.call("GET", "/pools/main");
  assertEquals(status, 200);
  const { id, createdAt, writeVerifier, ...rest } = body;
  assertMatch(writeVerifier, /^[0-9a-f-]{36}$/);
  assertMatch(id, UUID_V7);
  assertMatch(createdAt, MOMENT);
  assertEquals(rest, {
    name: "main",
    blockSizeBytes: 512,
    segmentBlocks: 4,
    cacheBytesMax: 1_073_741_824,
    cacheMode: "write-back",
    flushPolicy: { kind: "at-once" },
    deviceCount: 1,
    capacityBytes: 512_000_000,
    segmentCount: 250_000,
    freeSegments: 250_000,
    mappedBytes: 0,
    dirtyEntries: 0,
    dirtyBytes: 0,
    sequenceAppended: 0,
    sequenceFlushed: 0,
  });
});

Deno.test("GET /pools/{pool} takes an id in either case as well as a name", async () => {
  const byName = await door.call("GET", "/pools/main");
  const { id } = byName.body;
  assertEquals((await door.call("GET", `/pools/${id}`)).body, byName.body);
  assertEquals((await door.call("GET", `/pools/${id.toUpperCase()}`)).body, byName.body);
});

Deno.test("GET /pools/{pool} counts what was appended, and what of it is flushed", async () => {
  await createTestPool(door, "counted", { deviceBlocks: 40 });
  await createTestVolume(door, "counted-v", { pool: "counted" });
  const counts = async () => {
    const { body } = await door.call("GET", "/pools/counted");
    const { freeSegments, mappedBytes, dirtyEntries, dirtyBytes, sequenceAppended, sequenceFlushed } = body;
    return { freeSegments, mappedBytes, dirtyEntries, dirtyBytes, sequenceAppended, sequenceFlushed };
  };
  // Six blocks from the third on touch two segments of four.
  await door.call("PUT", "/volumes/counted-v/blocks/2", { octets: fill(1, 6, 512) });
  await door.call("DELETE", "/volumes/counted-v/blocks/0?count=4");
  await door.call("POST", "/snapshots", { json: { pool: "counted" } });
  assertEquals(await counts(), {
    freeSegments: 8,
    mappedBytes: 4096,
    dirtyEntries: 4,
    dirtyBytes: 3072,
    sequenceAppended: 4,
    sequenceFlushed: 0,
  });
  await door.system.drain();
  assertEquals(await counts(), {
    freeSegments: 8,
    mappedBytes: 4096,
    dirtyEntries: 0,
    dirtyBytes: 0,
    sequenceAppended: 4,
    sequenceFlushed: 4,
  });
});

Deno.test("POST /pools creates a pool of 4 KiB blocks and 64 KiB segments with the door's cache bound", async () => {
  const created = await door.call("POST", "/pools", { json: { name: "plain" } });
  assertEquals(created.status, 201);
  const { id, createdAt, ...rest } = created.body;
  assertMatch(createdAt, MOMENT);
  assertEquals(rest, {
    name: "plain",
    blockSizeBytes: 4096,
    segmentBlocks: 16,
    cacheBytesMax: 777_216,
    cacheMode: "write-back",
    flushPolicy: { kind: "at-once" },
    writeVerifier: NO_LIFE,
    deviceCount: 0,
    capacityBytes: 0,
    segmentCount: 0,
    freeSegments: 0,
    mappedBytes: 0,
    dirtyEntries: 0,
    dirtyBytes: 0,
    sequenceAppended: 0,
    sequenceFlushed: 0,
  });
  assertEquals(created.headers.get("location"), `/pools/${id}`);
  assertEquals((await door.call("GET", `/pools/${id}`)).body, created.body);
});

for (
  const [blockSizeBytes, segmentBlocks] of [[512, 128], [4096, 16], [32_768, 2], [65_536, 1]]
) {
  Deno.test(`POST /pools makes segments of ${segmentBlocks} for blocks of ${blockSizeBytes} bytes`, async () => {
    const json = { name: `size-${blockSizeBytes}`, blockSizeBytes };
    const { status, body } = await door.call("POST", "/pools", { json });
    assertEquals([status, body.blockSizeBytes, body.segmentBlocks], [201, blockSizeBytes, segmentBlocks]);
  });
}

Deno.test("POST /pools takes segments and a cache bound of the client's choice", async () => {
  const json = { name: "chosen", blockSizeBytes: 1024, segmentBlocks: 4096, cacheBytesMax: 1024 };
  const { status, body } = await door.call("POST", "/pools", { json });
  assertEquals(status, 201);
  assertEquals([body.blockSizeBytes, body.segmentBlocks, body.cacheBytesMax], [1024, 4096, 1024]);
});

Deno.test("PATCH /pools/{pool} changes the flush policy, which is told, audited and an event", async () => {
  const policy = { kind: "threshold", dirtyBytes: 8_192 };
  const json = { name: "changed", flushPolicy: { kind: "interval", intervalMs: 250 } };
  const created = await door.call("POST", "/pools", { json });
  assertEquals([created.status, created.body.flushPolicy], [201, json.flushPolicy]);
  const changed = await door.call("PATCH", "/pools/changed", { json: { flushPolicy: policy } });
  assertEquals(changed.status, 200);
  const { writeVerifier } = changed.body;
  assertEquals(changed.body, {
    ...created.body,
    writeVerifier,
    flushPolicy: { ...policy, maxAgeMs: 60_000 },
  });
  assertEquals((await door.call("GET", "/pools/changed")).body, changed.body);
  const { body: { events } } = await door.call("GET", "/events?pool=changed&type=pool.changed");
  assertEquals(events.map(({ data }: { data: unknown }) => data), [
    { name: "changed", cacheMode: "write-back", flushPolicy: changed.body.flushPolicy },
  ]);
  const { body: { records } } = await door.call("GET", "/audit?maxResults=1000");
  const { action, targetId } = records.findLast(({ targetName }: { targetName: string }) =>
    targetName === "changed"
  );
  assertEquals([action, targetId], ["pool.change", created.body.id]);
});

Deno.test("a write to a relaxed pool tells its durability and verifier, by every route, and the flush behind it the same", async () => {
  await createTestPool(door, "relaxed", { deviceBlocks: 400 });
  await createTestVolume(door, "relaxed-v", { pool: "relaxed" });
  const json = { cacheMode: "write-back-relaxed" };
  assertEquals((await door.call("PATCH", "/pools/relaxed", { json })).body.cacheMode, json.cacheMode);
  const octets = fill(1, 2, 512);
  const path = "/volumes/relaxed-v";
  const answers = [
    await door.call("PUT", `${path}/blocks/0`, { octets }),
    await door.call("PUT", `${path}/blocks/0?pool=relaxed`, { octets }),
    await door.call("DELETE", `${path}/blocks/0`),
    await door.call("POST", `${path}/writes`, { json: { writes: [{ lba: 0, trim: 1 }] } }),
    await door.call("PUT", `${path}/image`, { octets }),
  ];
  const { writeVerifier } = (await door.call("GET", "/pools/relaxed")).body;
  for (const { body } of answers) {
    assertEquals([body.durability, body.writeVerifier], ["relaxed", writeVerifier]);
  }
  await door.system.drain();
  const flushed = await door.call("POST", "/pools/relaxed/flush");
  assertEquals(flushed.body, { sequenceFlushed: answers.at(-1)?.body.sequence, writeVerifier });
  await door.call("PATCH", "/pools/relaxed", { json: { cacheMode: "write-back" } });
  const durable = await door.call("PUT", `${path}/blocks/0`, { octets });
  assertEquals(Object.keys(durable.body), ["sequence", "lba", "blockCount"]);
});

Deno.test("GET /pools lists the pools by pages, in order of creation", async () => {
  await using own = await createTestDoor();
  const names = ["e", "d", "c", "b", "a"];
  for (const name of names) await own.call("POST", "/pools", { json: { name } });
  const read = (maxResults: number) => readPages(own, "/pools", "pools", maxResults, ({ name }) => name);
  assertEquals(await read(2), [["main", "e"], ["d", "c"], ["b", "a"]]);
  assertEquals(await read(4), [["main", "e", "d", "c"], ["b", "a"]]);
  assertEquals(await read(6), [["main", ...names]]);
  assertEquals(await read(1000), [["main", ...names]]);
});

Deno.test("GET /pools answers HEAD with the headers alone", async () => {
  const { status, headers, body } = await door.call("HEAD", "/pools");
  assertEquals([status, headers.get("content-type"), body], [200, "application/json", undefined]);
});

Deno.test("GET /pools/{pool}/cache shows the queue oldest first, markers with their payload, and no data", async () => {
  await createTestPool(door, "queue");
  const volumeId = await createTestVolume(door, "queue-v", { pool: "queue" });
  await door.call("PUT", "/volumes/queue-v/blocks/1", { octets: fill(1, 2, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["queue-v"] } });
  await door.call("DELETE", "/volumes/queue-v/blocks/2");
  const { status, body } = await door.call("GET", "/pools/queue/cache");
  assertEquals(status, 200);
  assertEquals(Object.keys(body), ["entries"]);
  for (const { appendedAt, ageSeconds } of body.entries) {
    assertMatch(appendedAt, MOMENT);
    assertEquals(typeof ageSeconds === "number" && ageSeconds >= 0 && ageSeconds < 60, true);
  }
  const shared = { clientId: ADMIN_ID, priority: 0 };
  assertEquals(
    // deno-lint-ignore no-explicit-any -- an entry as it was answered
    body.entries.map(({ appendedAt: _at, ageSeconds: _age, ...rest }: any) => rest),
    [
      { sequence: 1, kind: "write", ...shared, volumeId, lba: 1, blockCount: 2, sizeBytes: 1024 },
      {
        sequence: 2,
        kind: "marker",
        ...shared,
        blockCount: 0,
        sizeBytes: 0,
        payload: "$$$$$SNAPSHOTMARKER****.",
      },
      { sequence: 3, kind: "trim", ...shared, volumeId, lba: 2, blockCount: 1, sizeBytes: 0 },
    ],
  );
});

Deno.test("GET /pools/{pool}/cache pages through the queue without gap or duplicate, also while it is flushed", async () => {
  await createTestPool(door, "paged");
  await createTestVolume(door, "paged-v", { pool: "paged" });
  for (let lba = 0; lba < 7; lba++) {
    await door.call("PUT", `/volumes/paged-v/blocks/${lba}`, { octets: fill(lba, 1, 512) });
  }
  const read = () => readPages(door, "/pools/paged/cache", "entries", 3, ({ sequence }) => sequence);
  assertEquals(await read(), [[1, 2, 3], [4, 5, 6], [7]]);
  const first = await door.call("GET", "/pools/paged/cache?maxResults=3");
  await door.system.drain();
  await door.call("PUT", "/volumes/paged-v/blocks/0", { octets: fill(8, 1, 512) });
  const next = await door.call("GET", `/pools/paged/cache?pageToken=${first.body.nextPageToken}`);
  assertEquals(next.body.entries.map(({ sequence }: { sequence: number }) => sequence), [8]);
  assertEquals(await read(), [[8]]);
});

Deno.test("POST /pools/{pool}/flush answers when all that was appended is flushed", async () => {
  await using own = await createTestDoor({ flusher: true });
  assertEquals((await own.call("POST", "/pools/main/flush")).body.sequenceFlushed, 0);
  await createTestVolume(own, "v");
  for (let lba = 0; lba < 20; lba += 4) {
    await own.call("PUT", `/volumes/v/blocks/${lba}`, { octets: fill(lba, 4, 512) });
  }
  const { status, body } = await own.call("POST", "/pools/main/flush");
  assertEquals([status, body.sequenceFlushed], [200, 5]);
  const pool = await own.call("GET", "/pools/main");
  assertEquals([pool.body.sequenceFlushed, pool.body.dirtyEntries, pool.body.dirtyBytes], [5, 0, 0]);
  assertEquals((await own.call("GET", "/pools/main/cache")).body, { entries: [] });
});

Deno.test("POST /pools/{pool}/flush waits for a flusher of another process", async () => {
  await using own = await createTestDoor();
  await createTestVolume(own, "v");
  await own.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 1, 512) });
  const flushed = own.call("POST", "/pools/main/flush");
  await own.system.openAnother({ flusher: true });
  assertEquals((await flushed).body.sequenceFlushed, 1);
});
