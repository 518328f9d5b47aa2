import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { CachePressure, toDelayMs } from "../../src/storage/cache_pressure.ts";
import { until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER } from "../support/storage.ts";

const LIMITS = { slowMsMax: 100, pendingBytesMax: 20 * BLOCK_BYTES };

Deno.test("toDelayMs() is nothing up to half of the bound, and grows from there to the longest delay", () => {
  assertEquals([0, 499, 500].map((dirty) => toDelayMs(dirty, 1_000, LIMITS)), [0, 0, 0]);
  assertEquals([750, 1_000, 5_000].map((dirty) => toDelayMs(dirty, 1_000, LIMITS)), [25, 100, 100]);
  for (let dirty = 501; dirty <= 1_000; dirty++) {
    assert(toDelayMs(dirty, 1_000, LIMITS) > toDelayMs(dirty - 1, 1_000, LIMITS));
  }
});

Deno.test("CachePressure slows no write while the cache is less than half full, and no longer once it is flushed", async () => {
  await using test = await createTestStorage({ cacheBytesMax: 40 * BLOCK_BYTES });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 64 });
  const pressure = new CachePressure(test.test.database, await storage.getPool("main"), LIMITS);
  assertEquals([pressure.slow(10 * BLOCK_BYTES), pressure.slow(0)], [undefined, undefined]);
  await storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(1, 30, BLOCK_BYTES) }]);
  // Others' writes are seen at the next look.
  await until(() => pressure.slow(1) !== undefined);
  const began = performance.now();
  await pressure.slow(9 * BLOCK_BYTES);
  // 39 of 40 blocks: nearly the longest delay.
  assert(performance.now() - began > LIMITS.slowMsMax * 0.8);
  await test.drain();
  await until(() => pressure.slow(1) === undefined);
});

Deno.test("at the cache's bound writes are refused, after they were slowed, and a snapshot is not", async () => {
  await using test = await createTestStorage({ cacheBytesMax: 8 * BLOCK_BYTES, limits: { slowMsMax: 1 } });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 64 });
  const write = () => storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(1, 2, BLOCK_BYTES) }]);
  for (let writes = 0; writes < 4; writes++) await write();
  const error = await assertRejects(write, StorageError);
  assertEquals((error as StorageError).code, "cache-full");
  const input = { volumes: ["v"], untilSealed: false };
  const { status } = await storage.takeSnapshot(TESTER, input, AbortSignal.timeout(1e4));
  assertEquals(status, "pending");
});

Deno.test("CachePressure holds a bounded number of bytes that it slows, and takes more when they have gone on", async () => {
  await using test = await createTestStorage({ cacheBytesMax: 10 * BLOCK_BYTES });
  const pressure = new CachePressure(test.test.database, await test.storage.getPool("main"), LIMITS);
  const slowed = [pressure.slow(12 * BLOCK_BYTES), pressure.slow(8 * BLOCK_BYTES)];
  const error = assertThrows(() => pressure.slow(1), StorageError) as StorageError;
  assertEquals(error.code, "too-busy");
  await Promise.all(slowed);
  await pressure.slow(12 * BLOCK_BYTES);
});
