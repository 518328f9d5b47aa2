/** What a pool has no room for: refused alone, told clearly, and taken again as soon as there is room. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import { assertNothingStored, assertProblem, type Refusal, sense, TOO_LARGE } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const data = (blockCount = 1) => fill(9, blockCount, 512).toBase64();

const INSUFFICIENT_SPACE: Refusal = { status: 507, code: "insufficient-space", scsi: sense(0x7, 0x27, 0x07) };

Deno.test("PUT refuses what the pool has no segment for with 507, until a device is added", async () => {
  await createTestPool(door, "small", { deviceBlocks: 8 });
  await createTestVolume(door, "small-v", { pool: "small" });
  const put = (lba: number, blockCount: number) =>
    door.call("PUT", `/volumes/small-v/blocks/${lba}`, { octets: fill(lba + 1, blockCount, 512) });
  assertEquals((await put(0, 4)).status, 200);
  await assertNothingStored(door, async () => assertProblem(await put(4, 5), INSUFFICIENT_SPACE));
  assertEquals((await put(4, 4)).status, 200);
  await assertNothingStored(door, async () => assertProblem(await put(60, 1), INSUFFICIENT_SPACE));
  const writes = [{ lba: 0, trim: 1 }, { lba: 32, data: data() }];
  await assertNothingStored(door, async () => {
    assertProblem(
      await door.call("POST", "/volumes/small-v/writes", { json: { writes } }),
      INSUFFICIENT_SPACE,
    );
  });
  // What has its segments goes on, and so do trims and snapshots; a new epoch needs new segments.
  assertEquals((await put(3, 2)).status, 200);
  assertEquals((await door.call("DELETE", "/volumes/small-v/blocks/0")).status, 200);
  assertEquals((await door.call("POST", "/snapshots", { json: { pool: "small" } })).status, 202);
  assertProblem(await put(3, 1), INSUFFICIENT_SPACE);
  const device = { name: "small-2", pool: "small", blockCount: 16 };
  assertEquals((await door.call("POST", "/devices", { json: device })).status, 201);
  assertEquals((await put(3, 2)).status, 200);
  assertEquals((await put(60, 1)).status, 200);
  const { body } = await door.call("GET", "/volumes/small-v/blocks/0?count=8");
  assertEquals(readStamps(body, 512), [0, 2, 3, 4, 5, 6, 7, 8]);
});

Deno.test("PUT refuses what there is no segment for, and not its neighbours in the same batch", async () => {
  await using own = await createTestDoor({ deviceBlocks: 20 });
  await createTestVolume(own, "v");
  // Once the volume is remembered, requests are queued in the order in which they arrive.
  await own.call("PUT", "/volumes/v/blocks/60", { octets: fill(1, 1, 512) });
  // While another holds the pool, the first request waits for it, and the others for the first: they are one batch.
  await using pool = await holdPool(own);
  const puts = [[0, 1], [4, 1], [8, 16], [36, 8], [48, 1]].map(async ([lba, blockCount], index) => {
    await until(() => pool.arrived === index);
    return await own.call("PUT", `/volumes/v/blocks/${lba}`, { octets: fill(1, blockCount, 512) });
  });
  await until(() => pool.arrived === puts.length);
  await own.call("GET", "/health/live");
  pool.release();
  const answers = await Promise.all(puts);
  assertEquals(answers.map(({ status }) => status), [200, 200, 507, 200, 507]);
  assertProblem(answers[2], INSUFFICIENT_SPACE);
  const { body: { entries } } = await own.call("GET", "/pools/main/cache");
  const batches = entries.map((
    { lba, appendedAt }: { lba: number; appendedAt: string },
  ) => [lba, appendedAt]);
  assertEquals(batches.map(([lba]: [number]) => lba), [60, 0, 4, 36, 40]);
  assertEquals(new Set(batches.slice(2).map(([_, at]: [number, string]) => at)).size, 1);
  assertEquals((await own.call("GET", "/pools/main")).body.freeSegments, 0);
});

Deno.test("PUT refuses what would wait behind too many with 503 and Retry-After", async () => {
  await using own = await createTestDoor({ limits: { pendingRequestsMax: 2 } });
  await createTestVolume(own, "v");
  const put = (lba: number) => own.call("PUT", `/volumes/v/blocks/${lba}`, { octets: fill(lba, 1, 512) });
  await put(60);
  await using pool = await holdPool(own);
  const puts = [0, 1, 2, 3].map(async (lba) => {
    await until(() => pool.arrived === lba);
    return await put(lba);
  });
  // One is on its way, two wait.
  assertProblem(await puts[3], {
    status: 503,
    code: "too-busy",
    scsi: { status: "BUSY" },
    headers: { "retry-after": "1" },
  });
  pool.release();
  const statuses = (await Promise.all(puts)).map(({ status }) => status);
  assertEquals(statuses, [200, 200, 200, 503]);
});

Deno.test("PUT refuses what the cache has no room for with 503 and Retry-After, until it is flushed", async () => {
  const full: Refusal = {
    status: 503,
    code: "cache-full",
    scsi: { status: "TASK SET FULL" },
    headers: { "retry-after": "1" },
  };
  await createTestPool(door, "full", { cacheBytesMax: 2048 });
  await createTestVolume(door, "full-v", { pool: "full" });
  const put = (lba: number, blockCount: number) =>
    door.call("PUT", `/volumes/full-v/blocks/${lba}`, { octets: fill(lba + 1, blockCount, 512) });
  // More than the cache ever holds is not a matter of time.
  await assertNothingStored(door, async () => assertProblem(await put(0, 5), TOO_LARGE));
  assertEquals((await put(0, 3)).status, 200);
  await assertNothingStored(door, async () => assertProblem(await put(3, 2), full));
  assertEquals((await put(3, 1)).status, 200);
  await assertNothingStored(door, async () => {
    assertProblem(await put(4, 1), full);
    const writes = [{ lba: 4, data: data() }];
    assertProblem(await door.call("POST", "/volumes/full-v/writes", { json: { writes } }), full);
  });
  // What brings no data into the cache goes on.
  const snapshot = await door.call("POST", "/snapshots", { json: { pool: "full", name: "full" } });
  assertEquals([snapshot.status, snapshot.body.status], [202, "pending"]);
  assertEquals((await door.call("DELETE", "/volumes/full-v/blocks/0")).status, 200);
  const read = async (path: string) => readStamps((await door.call("GET", path)).body, 512);
  assertEquals(await read("/volumes/full-v/blocks/0?count=5"), [0, 2, 3, 4, 0]);
  await door.system.drain();
  assertEquals((await put(4, 4)).status, 200);
  assertEquals(await read("/volumes/full-v/blocks/0?count=9"), [0, 2, 3, 4, 5, 6, 7, 8, 0]);
  assertEquals(await read("/snapshots/full/blocks/0?count=5"), [1, 2, 3, 4, 0]);
});

interface HeldPool extends AsyncDisposable {
  /** Requests that have come to the storage system since. */
  readonly arrived: number;
  release(): void;
}

/** Holds every pool's row, as a long transaction of another process would. */
async function holdPool({ system: { storage, test: { database } } }: TestDoor): Promise<HeldPool> {
  let arrived = 0;
  const append = storage.append.bind(storage);
  storage.append = (...args) => {
    arrived += 1;
    return append(...args);
  };
  const held = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  const holding = database.$client.begin(async (tx) => {
    await tx`select 1 from pool_heads for update`;
    held.resolve();
    await released.promise;
  });
  await held.promise;
  return {
    get arrived() {
      return arrived;
    },
    release: () => released.resolve(),
    [Symbol.asyncDispose]: async () => {
      released.resolve();
      await holding;
    },
  };
}
