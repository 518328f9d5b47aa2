/** `/devices`: backing stores, and the descriptors of their segments. */

import { assertEquals, assertMatch } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { readPages } from "./paging.ts";
import { assertProblem } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

Deno.test("POST /devices adds a device of whole segments, numbered behind those that there are", async () => {
  const { poolId } = await createTestPool(door, "adding", { deviceBlocks: 40 });
  const added = await door.call("POST", "/devices", { json: { name: "d", pool: "adding", blockCount: 11 } });
  assertEquals(added.status, 201);
  const { id, createdAt, ...rest } = added.body;
  assertMatch(createdAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assertEquals(rest, {
    name: "d",
    poolId,
    blockCount: 8,
    firstSegmentId: 10,
    segmentCount: 2,
    freeSegments: 2,
  });
  assertEquals(added.headers.get("location"), `/devices/${id}`);
  assertEquals((await door.call("GET", `/devices/${id}`)).body, added.body);
  const { body: pool } = await door.call("GET", "/pools/adding");
  assertEquals([pool.deviceCount, pool.capacityBytes, pool.segmentCount, pool.freeSegments], [
    2,
    24_576,
    12,
    12,
  ]);
});

Deno.test("POST /devices takes a size in bytes, and the largest there is as fast as a small one", async () => {
  await createTestPool(door, "sized");
  const sized = await door.call("POST", "/devices", {
    json: { name: "s", pool: "sized", sizeBytes: 512 * 4 },
  });
  assertEquals([sized.status, sized.body.blockCount, sized.body.segmentCount], [201, 4, 1]);
  const largest = await door.call("POST", "/devices", {
    json: { name: "l", pool: "sized", blockCount: 2 ** 36 },
  });
  assertEquals([largest.status, largest.body.segmentCount], [201, 17_179_869_184]);
  assertEquals((await door.call("GET", "/pools/sized")).body.capacityBytes, (4_000 + 4 + 2 ** 36) * 512);
});

Deno.test("POST /devices adds to pool main by default", async () => {
  const { body: main } = await door.call("GET", "/pools/main");
  const { status, body } = await door.call("POST", "/devices", { json: { name: "main-2", blockCount: 8 } });
  assertEquals([status, body.poolId], [201, main.id]);
});

Deno.test("GET /devices/{device} takes an id or a name, and tells what is free", async () => {
  const { deviceId } = await createTestPool(door, "named", { deviceBlocks: 40 });
  await createTestVolume(door, "named-v", { pool: "named" });
  await door.call("PUT", "/volumes/named-v/blocks/3", { octets: fill(1, 2, 512) });
  const byName = await door.call("GET", "/devices/named-1");
  assertEquals([byName.status, byName.body.id, byName.body.freeSegments], [200, deviceId, 8]);
  assertEquals((await door.call("GET", `/devices/${deviceId}`)).body, byName.body);
  assertEquals((await door.call("GET", `/devices/${deviceId.toUpperCase()}`)).body, byName.body);
});

Deno.test("GET /devices/{device} demands ?pool= for a name that two pools use", async () => {
  for (const pool of ["two-a", "two-b"]) {
    await createTestPool(door, pool);
    await door.call("POST", "/devices", { json: { name: "twin", pool, blockCount: 8 } });
  }
  for (const path of ["/devices/twin", "/devices/twin/segments"]) {
    assertProblem(await door.call("GET", path), { status: 409, code: "ambiguous-name" });
    assertEquals((await door.call("GET", `${path}?pool=two-a`)).status, 200);
  }
  const { body: pool } = await door.call("GET", "/pools/two-b");
  assertEquals((await door.call("GET", "/devices/twin?pool=two-b")).body.poolId, pool.id);
  assertEquals((await door.call("GET", `/devices/twin?pool=${pool.id}`)).body.poolId, pool.id);
  assertProblem(await door.call("GET", "/devices/twin?pool=main"), { status: 404, code: "device-not-found" });
});

Deno.test("GET /devices lists the devices of one pool or of all by pages, in order of creation", async () => {
  await using own = await createTestDoor();
  await createTestPool(own, "p");
  for (const name of ["z", "y", "x"]) {
    await own.call("POST", "/devices", { json: { name, pool: "p", blockCount: 4 } });
  }
  const read = (path: string, maxResults: number) =>
    readPages(own, path, "devices", maxResults, ({ name }) => name);
  assertEquals(await read("/devices", 2), [["main-1", "p-1"], ["z", "y"], ["x"]]);
  assertEquals(await read("/devices?pool=p", 2), [["p-1", "z"], ["y", "x"]]);
  assertEquals(await read("/devices?pool=p", 4), [["p-1", "z", "y", "x"]]);
});

Deno.test("GET /devices/{device}/segments describes each segment, and what maps it", async () => {
  await createTestPool(door, "mapped", { deviceBlocks: 8 });
  const device = { name: "second", pool: "mapped", blockCount: 12 };
  const { body: { id: deviceId } } = await door.call("POST", "/devices", { json: device });
  await createTestVolume(door, "mapped-v", { pool: "mapped" });
  await door.call("PUT", "/volumes/mapped-v/blocks/0", { octets: fill(1, 8, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["mapped-v"] } });
  await door.call("PUT", "/volumes/mapped-v/blocks/5", { octets: fill(9, 1, 512) });
  const { status, body } = await door.call("GET", "/devices/second/segments");
  assertEquals(status, 200);
  assertEquals(body, {
    segments: [
      {
        segmentId: 2,
        deviceId,
        firstBlock: 0,
        blockCount: 4,
        state: "mapped",
        timelineId: 1,
        slot: 1,
        epoch: 1,
      },
      { segmentId: 3, deviceId, firstBlock: 4, blockCount: 4, state: "free" },
      { segmentId: 4, deviceId, firstBlock: 8, blockCount: 4, state: "free" },
    ],
  });
});

Deno.test("GET /devices/{device}/segments pages without gap or duplicate", async () => {
  await createTestPool(door, "paged", { deviceBlocks: 12 });
  await door.call("POST", "/devices", { json: { name: "paged-2", pool: "paged", blockCount: 28 } });
  const read = (device: string, maxResults: number) =>
    readPages(door, `/devices/${device}/segments`, "segments", maxResults, ({ segmentId }) => segmentId);
  assertEquals(await read("paged-1", 2), [[0, 1], [2]]);
  assertEquals(await read("paged-2", 3), [[3, 4, 5], [6, 7, 8], [9]]);
  assertEquals(await read("paged-2", 7), [[3, 4, 5, 6, 7, 8, 9]]);
});

Deno.test("GET /devices/{device}/segments never tells another device's, whatever the page token", async () => {
  await createTestPool(door, "foreign", { deviceBlocks: 8 });
  for (const name of ["foreign-2", "foreign-3"]) {
    await door.call("POST", "/devices", { json: { name, pool: "foreign", blockCount: 8 } });
  }
  const tokens = await Promise.all(["foreign-1", "foreign-3"].map(async (device) => {
    const { body } = await door.call("GET", `/devices/${device}/segments?maxResults=1`);
    return body.nextPageToken;
  }));
  const idsBehind = async (token: string) => {
    const { body } = await door.call("GET", `/devices/foreign-2/segments?pageToken=${token}`);
    return body.segments.map(({ segmentId }: { segmentId: number }) => segmentId);
  };
  assertEquals(await Promise.all(tokens.map(idsBehind)), [[2, 3], []]);
});
