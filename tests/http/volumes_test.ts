/** `/volumes`: virtual drives and their segment maps. */

import { assertEquals, assertMatch } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import { readPages } from "./paging.ts";
import { assertProblem, VOLUME_NOT_FOUND } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

async function readBlocks(path: string): Promise<number[]> {
  const { status, body } = await door.call("GET", path);
  assertEquals(status, 200, JSON.stringify(body));
  return readStamps(body, 512);
}

Deno.test("POST /volumes creates a volume that reads as zeros", async () => {
  const { poolId } = await createTestPool(door, "creating");
  const created = await door.call("POST", "/volumes", {
    json: { name: "db-1", pool: "creating", blockCount: 9 },
  });
  assertEquals(created.status, 201);
  const { id, createdAt, ...rest } = created.body;
  assertMatch(createdAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assertEquals(rest, {
    name: "db-1",
    poolId,
    blockSizeBytes: 512,
    blockCount: 9,
    sizeBytes: 4608,
    mappedBytes: 0,
    timelineId: 1,
    snapshotsMax: null,
    labels: {},
  });
  assertEquals(created.headers.get("location"), `/volumes/${id}`);
  assertEquals((await door.call("GET", `/volumes/${id}`)).body, created.body);
  assertEquals(await readBlocks("/volumes/db-1/blocks/0?count=9"), [0, 0, 0, 0, 0, 0, 0, 0, 0]);
});

Deno.test("POST /volumes takes a size in bytes, and pool main by default", async () => {
  const { body: main } = await door.call("GET", "/pools/main");
  const { status, body } = await door.call("POST", "/volumes", { json: { name: "bytes", sizeBytes: 5120 } });
  assertEquals([status, body.poolId, body.blockCount, body.sizeBytes], [201, main.id, 10, 5120]);
});

Deno.test("POST /volumes takes a volume far larger than all physical space", async () => {
  await createTestPool(door, "thin", { deviceBlocks: 8 });
  const { status, body } = await door.call("POST", "/volumes", {
    json: { name: "thin-v", pool: "thin", blockCount: 2 ** 36 },
  });
  assertEquals([status, body.sizeBytes], [201, 35_184_372_088_832]);
  const last = 2 ** 36 - 1;
  const written = await door.call("PUT", `/volumes/thin-v/blocks/${last}`, { octets: fill(7, 1, 512) });
  assertEquals([written.status, written.body], [200, { sequence: 1, lba: last, blockCount: 1 }]);
  assertEquals(await readBlocks(`/volumes/thin-v/blocks/${last - 2}?count=3`), [0, 0, 7]);
});

Deno.test("GET /volumes/{volume} takes an id in either case or a name", async () => {
  const id = await createTestVolume(door, "either");
  const byName = await door.call("GET", "/volumes/either");
  assertEquals([byName.status, byName.body.id], [200, id]);
  assertEquals((await door.call("GET", `/volumes/${id}`)).body, byName.body);
  assertEquals((await door.call("GET", `/volumes/${id.toUpperCase()}`)).body, byName.body);
});

Deno.test("GET /volumes lists the volumes of one pool or of all by pages, in order of creation", async () => {
  await using own = await createTestDoor();
  await createTestPool(own, "p");
  for (const name of ["e", "d", "c"]) await createTestVolume(own, name, { pool: "p" });
  for (const name of ["b", "a"]) await createTestVolume(own, name);
  const read = (path: string, maxResults: number) =>
    readPages(own, path, "volumes", maxResults, ({ name }) => name);
  assertEquals(await read("/volumes", 2), [["e", "d"], ["c", "b"], ["a"]]);
  assertEquals(await read("/volumes?pool=p", 2), [["e", "d"], ["c"]]);
  assertEquals(await read("/volumes?pool=main", 2), [["b", "a"]]);
  await own.call("DELETE", "/volumes/d");
  assertEquals(await read("/volumes", 1000), [["e", "c", "b", "a"]]);
});

Deno.test("every route of a volume demands ?pool= for a name that two pools use", async () => {
  for (const pool of ["first", "second"]) {
    await createTestPool(door, pool);
    await createTestVolume(door, "shared", { pool });
  }
  const put = { octets: fill(5, 1, 512) };
  const writes = { json: { writes: [{ lba: 0, trim: 1 }] } };
  const calls = (suffix: string) => [
    door.call("GET", `/volumes/shared${suffix}`),
    door.call("GET", `/volumes/shared/segments${suffix}`),
    door.call("PATCH", `/volumes/shared${suffix}`, { json: { blockCount: 70 } }),
    door.call("PUT", `/volumes/shared/blocks/1${suffix}`, put),
    door.call("GET", `/volumes/shared/blocks/1${suffix}`),
    door.call("DELETE", `/volumes/shared/blocks/3${suffix}`),
    door.call("POST", `/volumes/shared/writes${suffix}`, writes),
    door.call("GET", `/events?volume=shared${suffix.replace("?", "&")}`),
  ];
  for (const answer of await Promise.all([...calls(""), door.call("DELETE", "/volumes/shared")])) {
    assertProblem(answer, { status: 409, code: "ambiguous-name" });
  }
  for (const answer of await Promise.all(calls("?pool=second"))) assertEquals(answer.status, 200);
  assertEquals(await readBlocks("/volumes/shared/blocks/0?count=3&pool=second"), [0, 5, 0]);
  assertEquals(await readBlocks("/volumes/shared/blocks/0?count=3&pool=first"), [0, 0, 0]);
  assertEquals((await door.call("DELETE", "/volumes/shared?pool=first")).status, 204);
  assertEquals(await readBlocks("/volumes/shared/blocks/0?count=3"), [0, 5, 0]);
});

Deno.test("PATCH /volumes/{volume} grows it: old blocks stay, new ones read as zeros and take writes", async () => {
  await createTestPool(door, "growing");
  const id = await createTestVolume(door, "grown", { pool: "growing", blockCount: 6 });
  await door.call("PUT", "/volumes/grown/blocks/4", { octets: fill(1, 2, 512) });
  const { status, body } = await door.call("PATCH", "/volumes/grown", { json: { blockCount: 10 } });
  assertEquals([status, body.id, body.blockCount, body.sizeBytes], [200, id, 10, 5120]);
  assertEquals((await door.call("GET", "/volumes/grown")).body, body);
  assertEquals(await readBlocks("/volumes/grown/blocks/4?count=6"), [1, 2, 0, 0, 0, 0]);
  assertEquals(
    (await door.call("PUT", "/volumes/grown/blocks/9", { octets: fill(3, 1, 512) })).status,
    200,
  );
  assertEquals(await readBlocks("/volumes/grown/blocks/4?count=6"), [1, 2, 0, 0, 0, 3]);
  const bytes = await door.call("PATCH", `/volumes/${id}`, { json: { sizeBytes: 6144 } });
  assertEquals([bytes.status, bytes.body.blockCount], [200, 12]);
});

Deno.test("PATCH /volumes/{volume} takes the size it has, and refuses to shrink", async () => {
  await createTestVolume(door, "steady", { blockCount: 8 });
  const same = await door.call("PATCH", "/volumes/steady", { json: { blockCount: 8 } });
  assertEquals([same.status, same.body.blockCount], [200, 8]);
  assertProblem(await door.call("PATCH", "/volumes/steady", { json: { blockCount: 7 } }), {
    status: 422,
    code: "invalid-argument",
  });
  assertEquals((await door.call("GET", "/volumes/steady")).body.blockCount, 8);
});

Deno.test("DELETE /volumes/{volume} makes it unknown to every route, and its name free", async () => {
  await createTestPool(door, "deleting");
  const id = await createTestVolume(door, "gone", { pool: "deleting" });
  await door.call("PUT", "/volumes/gone/blocks/0", { octets: fill(1, 1, 512) });
  const deleted = await door.call("DELETE", "/volumes/gone");
  assertEquals([deleted.status, deleted.body], [204, undefined]);
  for (const reference of ["gone", id]) {
    const answers = await Promise.all([
      door.call("GET", `/volumes/${reference}`),
      door.call("DELETE", `/volumes/${reference}`),
      door.call("PATCH", `/volumes/${reference}`, { json: { blockCount: 100 } }),
      door.call("GET", `/volumes/${reference}/segments`),
      door.call("GET", `/volumes/${reference}/blocks/0`),
      door.call("PUT", `/volumes/${reference}/blocks/0`, { octets: fill(1, 1, 512) }),
      door.call("DELETE", `/volumes/${reference}/blocks/0`),
      door.call("POST", `/volumes/${reference}/writes`, { json: { writes: [{ lba: 0, trim: 1 }] } }),
      door.call("POST", "/snapshots", { json: { volumes: [reference] } }),
    ]);
    for (const answer of answers) assertProblem(answer, VOLUME_NOT_FOUND);
  }
  const again = await createTestVolume(door, "gone", { pool: "deleting" });
  assertEquals(again === id, false);
  assertEquals(await readBlocks("/volumes/gone/blocks/0"), [0]);
  // The entry of the deleted volume is still in the queue, and leaves it like any other.
  await door.system.drain();
  assertEquals((await door.call("GET", "/pools/deleting")).body.dirtyEntries, 0);
});

Deno.test("DELETE /volumes/{volume} leaves its snapshots readable by its id", async () => {
  await createTestPool(door, "surviving");
  const id = await createTestVolume(door, "survivor", { pool: "surviving", blockCount: 4 });
  await door.call("PUT", "/volumes/survivor/blocks/1", { octets: fill(1, 2, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["survivor"], name: "kept" } });
  await door.call("DELETE", "/volumes/survivor");
  const read = async () => ({
    only: await readBlocks("/snapshots/kept/blocks/0?count=4"),
    byId: await readBlocks(`/snapshots/kept/blocks/0?count=4&volume=${id}`),
    byIdInCapitals: await readBlocks(`/snapshots/kept/blocks/0?count=4&volume=${id.toUpperCase()}`),
  });
  const contents = { only: [0, 1, 2, 0], byId: [0, 1, 2, 0], byIdInCapitals: [0, 1, 2, 0] };
  assertEquals(await read(), contents);
  await door.system.drain();
  assertEquals(await read(), contents);
  assertProblem(await door.call("GET", "/snapshots/kept/blocks/0?volume=survivor"), VOLUME_NOT_FOUND);
});

Deno.test("GET /volumes/{volume}/segments shows the map by slot and epoch, by pages", async () => {
  const { deviceId } = await createTestPool(door, "mapping");
  await createTestVolume(door, "map-v", { pool: "mapping" });
  assertEquals((await door.call("GET", "/volumes/map-v/segments")).body, { segments: [] });
  await door.call("PUT", "/volumes/map-v/blocks/8", { octets: fill(1, 1, 512) });
  await door.call("PUT", "/volumes/map-v/blocks/0", { octets: fill(1, 5, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["map-v"] } });
  await door.call("PUT", "/volumes/map-v/blocks/3", { octets: fill(1, 1, 512) });
  // A trim of what was never written maps nothing.
  await door.call("DELETE", "/volumes/map-v/blocks/40?count=4");
  const map = [
    { timelineId: 1, slot: 0, epoch: 0, segmentId: 1, deviceId },
    { timelineId: 1, slot: 0, epoch: 1, segmentId: 3, deviceId },
    { timelineId: 1, slot: 1, epoch: 0, segmentId: 2, deviceId },
    { timelineId: 1, slot: 2, epoch: 0, segmentId: 0, deviceId },
  ];
  assertEquals((await door.call("GET", "/volumes/map-v/segments")).body, { segments: map });
  const read = (maxResults: number) =>
    readPages(door, "/volumes/map-v/segments", "segments", maxResults, (item) => item);
  assertEquals(await read(1), map.map((row) => [row]));
  assertEquals(await read(3), [map.slice(0, 3), map.slice(3)]);
});

Deno.test("PATCH /volumes/{volume} bounds its snapshots, and one more is refused", async () => {
  await createTestPool(door, "bounded");
  await door.call("POST", "/volumes", { json: { name: "few", pool: "bounded", blockCount: 8 } });
  const { status, body } = await door.call("PATCH", "/volumes/few", { json: { snapshotsMax: 1 } });
  assertEquals([status, body.snapshotsMax], [200, 1]);
  const take = () => door.call("POST", "/snapshots", { json: { volumes: ["few"] } });
  assertEquals((await take()).status, 202);
  const { status: refused, body: { code, scsi } } = await take();
  assertEquals([refused, code, scsi.asc, scsi.ascq], [409, "too-many-snapshots", 0x55, 0x03]);
  const { body: freed } = await door.call("PATCH", "/volumes/few", { json: { snapshotsMax: null } });
  assertEquals(freed.snapshotsMax, null);
  assertEquals((await take()).status, 202);
  for (const bad of [0, -1, 1.5, "1"]) {
    assertEquals((await door.call("PATCH", "/volumes/few", { json: { snapshotsMax: bad } })).status, 400);
  }
});
