import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Database, transact } from "../../src/database/client.ts";
import { StorageError } from "../../src/errors.ts";
import { formatAdvance, isHeadMoved, lockPool } from "../../src/storage/pool.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { readStamps } from "../support/history.ts";
import {
  BLOCK_BYTES,
  createTestStorage,
  SEGMENT_BLOCKS,
  TESTER,
  type TestStorage,
  write,
} from "../support/storage.ts";

async function stampsOf({ storage }: TestStorage, volume: string, lba: number, blockCount: number) {
  return readStamps(await storage.readVolume(volume, undefined, { lba, blockCount }), BLOCK_BYTES);
}

async function rejectsWith(code: string, promise: Promise<unknown>): Promise<void> {
  const error = await assertRejects(() => promise, StorageError);
  assertEquals((error as StorageError).code, code);
}

Deno.test("append() answers the sequence of the request's last entry, one entry per slot touched", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  assertEquals(await storage.append(TESTER, "v", undefined, [write(0, 1)]), { sequence: 1, blockCount: 1 });
  assertEquals(await storage.append(TESTER, "v", undefined, [write(3, 2, 6)]), {
    sequence: 4,
    blockCount: 6,
  });
  assertEquals(await stampsOf(test, "v", 0, 10), [1, 0, 0, 2, 3, 4, 5, 6, 7, 0]);
});

Deno.test("append() numbers concurrent requests of two processes without gap or duplicate", async () => {
  await using test = await createTestStorage();
  const other = await test.openAnother();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  const answers = await Promise.all(
    Array.from(
      { length: 100 },
      (_, i) => (i % 2 === 0 ? test.storage : other).append(TESTER, "v", undefined, [write(i, i + 1)]),
    ),
  );
  const sequences = answers.map(({ sequence }) => sequence).toSorted((a, b) => a - b);
  assertEquals(sequences, Array.from({ length: 100 }, (_, i) => i + 1));
});

Deno.test("append() makes sequence order commit order: whoever looks never sees a gap", async () => {
  await using test = await createTestStorage();
  const other = await test.openAnother();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 64 });
  let writing = true;
  const writers = Promise.all([test.storage, other].map(async (storage) => {
    for (let i = 0; i < 60; i++) await storage.append(TESTER, "v", undefined, [write(i % 64, i + 1)]);
  })).finally(() => writing = false);
  let looks = 0;
  while (writing) {
    const [row] = await test.test.database.$client`select count(*), max(sequence) from cache`;
    assertEquals(row.count, row.max ?? 0);
    looks += 1;
  }
  await writers;
  assertEquals(looks > 10, true);
});

Deno.test("append() takes a write and a trim of one request as one, in their order", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 10, 8), { lba: 2, trim: 4 }, write(3, 20)]);
  assertEquals(await stampsOf(test, "v", 0, 8), [10, 11, 0, 20, 0, 0, 16, 17]);
  await test.drain();
  assertEquals(await stampsOf(test, "v", 0, 8), [10, 11, 0, 20, 0, 0, 16, 17]);
});

Deno.test("append() gives a trim that finds nothing a sequence and no segment", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 1000 });
  const before = (await test.storage.getPool("main")).freeSegments;
  assertEquals(await test.storage.append(TESTER, "v", undefined, [{ lba: 5, trim: 900 }]), {
    sequence: 1,
    blockCount: 900,
  });
  assertEquals((await test.storage.getPool("main")).freeSegments, before);
  await test.drain();
  assertEquals(await stampsOf(test, "v", 0, 1000), new Array(1000).fill(0));
});

Deno.test("append() trims what a write of the same batch has put there, and what older epochs hold", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await Promise.all([
    storage.append(TESTER, "v", undefined, [write(0, 1, 4)]),
    storage.append(TESTER, "v", undefined, [{ lba: 1, trim: 2 }]),
  ]);
  assertEquals(await stampsOf(test, "v", 0, 4), [1, 0, 0, 4]);
  await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], name: "s", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  await storage.append(TESTER, "v", undefined, [{ lba: 0, trim: 8 }]);
  assertEquals(await stampsOf(test, "v", 0, 4), [0, 0, 0, 0]);
  const snapshot = await storage.readSnapshot("s", undefined, undefined, { lba: 0, blockCount: 4 });
  assertEquals(readStamps(snapshot, BLOCK_BYTES), [1, 0, 0, 4]);
});

Deno.test("append() refuses one request of a batch without its neighbours", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 10 });
  const [first, beyond, torn, last] = await Promise.allSettled([
    storage.append(TESTER, "v", undefined, [write(0, 1)]),
    storage.append(TESTER, "v", undefined, [write(9, 2, 2)]),
    storage.append(TESTER, "v", undefined, [{ lba: 0, data: new Uint8Array(100) }]),
    storage.append(TESTER, "v", undefined, [write(1, 3)]),
  ]);
  assertEquals([first.status, beyond.status, torn.status, last.status], [
    "fulfilled",
    "rejected",
    "rejected",
    "fulfilled",
  ]);
  assertEquals((beyond as PromiseRejectedResult).reason.code, "lba-out-of-range");
  assertEquals((torn as PromiseRejectedResult).reason.code, "not-whole-blocks");
  assertEquals(await stampsOf(test, "v", 0, 10), [1, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
});

Deno.test("append() refuses a request whole when segments run out, and what was acknowledged can be flushed", async () => {
  await using test = await createTestStorage({ deviceBlocks: 3 * SEGMENT_BLOCKS });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 1000 });
  const results = await Promise.allSettled([
    storage.append(TESTER, "v", undefined, [write(0, 1, 2 * SEGMENT_BLOCKS)]),
    storage.append(TESTER, "v", undefined, [write(100, 50, 2 * SEGMENT_BLOCKS)]),
    storage.append(TESTER, "v", undefined, [write(200, 90)]),
  ]);
  assertEquals(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  assertEquals((results[1] as PromiseRejectedResult).reason.code, "insufficient-space");
  assertEquals((await storage.getPool("main")).freeSegments, 0);
  await rejectsWith("insufficient-space", storage.append(TESTER, "v", undefined, [write(300, 95)]));
  // Overwriting needs no new segment
  await storage.append(TESTER, "v", undefined, [write(1, 99)]);
  await test.drain();
  assertEquals(await stampsOf(test, "v", 0, 9), [1, 99, 3, 4, 5, 6, 7, 8, 0]);
  assertEquals(await stampsOf(test, "v", 100, 2), [0, 0]);
  await storage.addDevice(TESTER, { name: "more", blockCount: SEGMENT_BLOCKS });
  await storage.append(TESTER, "v", undefined, [write(300, 95)]);
  assertEquals(await stampsOf(test, "v", 300, 1), [95]);
});

Deno.test("append() leaves segments that a refused request would have taken on the free list", async () => {
  await using test = await createTestStorage({ deviceBlocks: 2 * SEGMENT_BLOCKS });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 1000 });
  await rejectsWith(
    "insufficient-space",
    storage.append(TESTER, "v", undefined, [write(0, 1, 3 * SEGMENT_BLOCKS)]),
  );
  assertEquals((await storage.getPool("main")).freeSegments, 2);
  await storage.append(TESTER, "v", undefined, [write(0, 1, 2 * SEGMENT_BLOCKS)]);
  assertEquals((await storage.getPool("main")).freeSegments, 0);
});

Deno.test("append() refuses writes over the cache's bound, and takes them again once it is flushed", async () => {
  await using test = await createTestStorage({ cacheBytesMax: 4 * BLOCK_BYTES });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 4)]);
  await rejectsWith("cache-full", storage.append(TESTER, "v", undefined, [write(9, 9)]));
  const { sequence } = await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  assertEquals(sequence, 2);
  await test.drain();
  await storage.append(TESTER, "v", undefined, [write(9, 9)]);
  assertEquals(await stampsOf(test, "v", 9, 1), [9]);
});

Deno.test("append() sees what another process changed: a marker, a larger size, a deletion", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const other = await test.openAnother();
  await storage.createVolume(TESTER, { name: "v", blockCount: 10 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  await other.takeSnapshot(
    TESTER,
    { volumes: ["v"], name: "s", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  await storage.append(TESTER, "v", undefined, [write(0, 2)]);
  const snapshot = await storage.readSnapshot("s", undefined, undefined, { lba: 0, blockCount: 1 });
  assertEquals(readStamps(snapshot, BLOCK_BYTES), [1]);

  await other.changeVolume(TESTER, "v", undefined, { blockCount: 20 });
  await storage.append(TESTER, "v", undefined, [write(19, 3)]);
  assertEquals(await stampsOf(test, "v", 18, 2), [0, 3]);

  await other.deleteVolume(TESTER, "v");
  await rejectsWith("volume-not-found", storage.append(TESTER, "v", undefined, [write(0, 4)]));
  const again = await other.createVolume(TESTER, { name: "v", blockCount: 10 });
  await storage.append(TESTER, "v", undefined, [write(0, 5)]);
  assertEquals(await stampsOf(test, again.volumeId, 0, 1), [5]);
});

Deno.test("append() refuses what the limits forbid: too many writes, too much data, too large a trim, too many waiting", async () => {
  const limits = {
    requestWritesMax: 2,
    requestBytesMax: 4 * BLOCK_BYTES,
    trimBlocksMax: 8,
    pendingRequestsMax: 1,
  };
  await using test = await createTestStorage({ limits });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  const three = [write(0, 1), write(1, 1), write(2, 1)];
  await rejectsWith("request-too-large", storage.append(TESTER, "v", undefined, three));
  await rejectsWith("request-too-large", storage.append(TESTER, "v", undefined, []));
  await rejectsWith("request-too-large", storage.append(TESTER, "v", undefined, [write(0, 1, 5)]));
  await rejectsWith("request-too-large", storage.append(TESTER, "v", undefined, [{ lba: 0, trim: 9 }]));
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const results = await Promise.allSettled(
    [0, 1, 2, 3].map((lba) => storage.append(TESTER, "v", undefined, [write(lba, 1)])),
  );
  const codes = results.flatMap((result) => result.status === "rejected" ? [result.reason.code] : []);
  assertEquals(new Set(codes), new Set(["too-busy"]));
});

Deno.test("append() remembers a bounded map and goes on right when it has to forget", async () => {
  await using test = await createTestStorage({ limits: { openMapSlotsMax: 3 } });
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  for (let round = 1; round <= 2; round++) {
    for (let lba = 0; lba < 40; lba += SEGMENT_BLOCKS) {
      await test.storage.append(TESTER, "v", undefined, [write(lba, round * 100 + lba)]);
    }
  }
  assertEquals((await stampsOf(test, "v", 36, 1))[0], 236);
  const mapped = await test.storage.listVolumeSegments("v", undefined, { itemsMax: 100 });
  assertEquals(mapped.items.length, 10);
});

Deno.test("append() trims many ranges of one request by one look, those of older epochs too", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  await test.storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], untilSealed: false },
    AbortSignal.timeout(60_000),
  );
  const trims = [{ lba: 1, trim: 2 }, { lba: 7, trim: 10 }, { lba: 30, trim: 1 }, { lba: 60, trim: 40 }];
  await test.storage.append(TESTER, "v", undefined, trims);
  const expected = Array.from({ length: 100 }, (_, lba) => {
    const trimmed = trims.some((range) => lba >= range.lba && lba < range.lba + range.trim);
    return lba < 40 && !trimmed ? lba + 1 : 0;
  });
  assertEquals(await stampsOf(test, "v", 0, 100), expected);
});

Deno.test("append() remembers a name for a bounded time: then it notices that a second pool uses it", async () => {
  await using test = await createTestStorage({ limits: { rememberedVolumesMs: 0 } });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "twin", blockCount: 8 });
  await storage.append(TESTER, "twin", undefined, [write(0, 1)]);
  const shape = { blockSizeBytes: BLOCK_BYTES, segmentBlocks: SEGMENT_BLOCKS, cacheBytesMax: 2 ** 20 };
  await storage.createPool(TESTER, { name: "other", ...shape });
  await storage.createVolume(TESTER, { name: "twin", pool: "other", blockCount: 8 });
  await rejectsWith("ambiguous-name", storage.append(TESTER, "twin", undefined, [write(0, 2)]));
  await storage.append(TESTER, "twin", "main", [write(0, 3)]);
});

Deno.test("append() judges a request by what is, where another process moved the head unseen", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const other = await test.openAnother();
  await storage.createVolume(TESTER, { name: "v", blockCount: 10 });
  // Twice: from then on this process commits without asking where the head stands
  for (const stamp of [1, 2]) await storage.append(TESTER, "v", undefined, [write(0, stamp)]);
  await other.changeVolume(TESTER, "v", undefined, { blockCount: 20 });
  await storage.append(TESTER, "v", undefined, [write(15, 3)]);
  await storage.append(TESTER, "v", undefined, [write(15, 4)]);
  // Both take the same free segment first, and one of them must take another
  await other.append(TESTER, "v", undefined, [write(4, 5)]);
  await storage.append(TESTER, "v", undefined, [write(8, 6)]);
  await storage.append(TESTER, "v", undefined, [write(4, 7)]);
  assertEquals(await stampsOf(test, "v", 0, 20), [
    2,
    ...[0, 0, 0],
    7,
    ...[0, 0, 0],
    6,
    ...[0, 0, 0, 0, 0, 0],
    4,
    ...[0, 0, 0, 0],
  ]);
  assertEquals((await storage.getPool("main")).sequenceAppended, 7);
  const mapped = await storage.listVolumeSegments("v", undefined, { itemsMax: 100 });
  assertEquals(new Set(mapped.items.map(({ segmentId }) => segmentId)).size, mapped.items.length);
});

Deno.test("append() refuses a volume that another process deleted while this one knew where the head stands", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const other = await test.openAnother();
  await storage.createVolume(TESTER, { name: "v", blockCount: 10 });
  for (const stamp of [1, 2, 3]) await storage.append(TESTER, "v", undefined, [write(0, stamp)]);
  await other.deleteVolume(TESTER, "v");
  await rejectsWith("volume-not-found", storage.append(TESTER, "v", undefined, [write(0, 4)]));
  assertEquals((await storage.getPool("main")).sequenceAppended, 3);
});

Deno.test("an append from a known head waits for the one before it, and then finds the head where that left it", async () => {
  await using test = await createTestStorage();
  const { database } = test.test;
  const { poolId } = await test.storage.getPool("main");
  const head = await transact(database, (tx) => lockPool(tx, poolId));
  const advance = (sequenceAppended: number) =>
    formatAdvance(poolId, { ...head, sequenceAppended }, { sequences: 10, bytes: 0, through: false });
  const second = Promise.withResolvers<void>();
  second.promise.catch(() => {});
  await transact(database, async ({ $client }) => {
    const [{ pid }] = await $client`select pg_backend_pid() as pid`;
    await $client.unsafe(advance(0));
    database.$client.unsafe(advance(10)).then(() => second.resolve(), second.reject);
    await untilBlockedBy(database, pid);
  });
  await second.promise;
  assertEquals((await test.storage.getPool("main")).sequenceAppended, 20);
  const error = await assertRejects(async () => await database.$client.unsafe(advance(10)));
  assert(isHeadMoved(error));
});

async function untilBlockedBy({ $client }: Database, pid: number): Promise<void> {
  for (let looks = 0; looks < 10_000; looks++) {
    const [{ blocked }] = await $client`
      select exists (select from pg_locks where not granted and ${pid} = any(pg_blocking_pids(pid))) as blocked`;
    if (blocked) return;
  }
  throw new Error("Nothing waited for the transaction");
}

Deno.test("append() knows what is mapped and free only while nobody else appends", async () => {
  await using test = await createTestStorage({ deviceBlocks: 12 * SEGMENT_BLOCKS });
  const { storage } = test;
  const other = await test.openAnother();
  const put = (who: Storage, lba: number, stamp: number) =>
    who.append(TESTER, "v", undefined, [write(lba, stamp)]);
  const slotOf = (slot: number) => slot * SEGMENT_BLOCKS;
  await storage.createVolume(TESTER, { name: "v", blockCount: slotOf(10) });
  for (const slot of [0, 1, 2]) await put(storage, slotOf(slot), slot + 1);
  for (const slot of [3, 4]) await put(other, slotOf(slot), slot + 1);
  await put(storage, slotOf(3) + 1, 30);
  await put(storage, slotOf(5), 6);
  assertEquals((await storage.getPool("main")).freeSegments, 6);

  const snapshot = { volumes: ["v"], name: "s", untilSealed: false };
  await storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(1e4));
  await put(other, slotOf(3), 40);
  await put(storage, slotOf(3) + 2, 41);
  await put(storage, slotOf(4), 42);
  assertEquals((await storage.getPool("main")).freeSegments, 4);
  for (const drained of [false, true]) {
    if (drained) await test.drain();
    assertEquals(await stampsOf(test, "v", slotOf(3), 8), [40, 30, 41, 0, 42, 0, 0, 0]);
    const range = { lba: slotOf(3), blockCount: 8 };
    const then = await storage.readSnapshot("s", undefined, undefined, range);
    assertEquals(readStamps(then, BLOCK_BYTES), [4, 30, 0, 0, 5, 0, 0, 0]);
  }
});

Deno.test("append() finds segments of a device that was added after it had looked for free ones", async () => {
  await using test = await createTestStorage({ deviceBlocks: 2 * SEGMENT_BLOCKS });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  for (const slot of [0, 1]) {
    await storage.append(TESTER, "v", undefined, [write(slot * SEGMENT_BLOCKS, 1)]);
  }
  await rejectsWith("insufficient-space", storage.append(TESTER, "v", undefined, [write(50, 1)]));
  await storage.addDevice(TESTER, { name: "more", blockCount: 2 * SEGMENT_BLOCKS });
  await storage.append(TESTER, "v", undefined, [write(50, 2)]);
  assertEquals(await stampsOf(test, "v", 50, 1), [2]);
});
