import { assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import type { FlushPoint } from "../../src/storage/flush.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const POINTS: FlushPoint[] = ["locked", "chosen", "copied", "deleted", "sealed", "moved"];

async function stampsOf({ storage }: TestStorage, lba: number, blockCount: number) {
  return readStamps(await storage.readVolume("v", undefined, { lba, blockCount }), BLOCK_BYTES);
}

async function prepare(test: TestStorage): Promise<void> {
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
}

async function take({ storage }: TestStorage, name: string) {
  return await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], name, untilSealed: false },
    AbortSignal.timeout(60_000),
  );
}

Deno.test("flushStep() moves the newest version of each block and leaves the cache empty", async () => {
  await using test = await createTestStorage();
  await prepare(test);
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 6)]);
  await test.storage.append(TESTER, "v", undefined, [write(2, 10, 2), { lba: 5, trim: 1 }]);
  assertEquals(await test.createFlusher().sweep(), true);
  const [row] = await test.test.database.$client`
    select (select count(*) from cache) as entries, (select count(*) from blocks) as blocks,
      (select count(*) from blocks where data is null) as trimmed`;
  assertEquals({ ...row }, { entries: 0, blocks: 6, trimmed: 1 });
  assertEquals(await stampsOf(test, 0, 6), [1, 2, 10, 11, 5, 0]);
  assertEquals(await test.createFlusher().sweep(), false);
});

Deno.test("flushStep() stops at the oldest marker, seals it when nothing is ahead, and goes on behind it", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await prepare(test);
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  await take(test, "first");
  await take(test, "second");
  await storage.append(TESTER, "v", undefined, [write(0, 2)]);
  await take(test, "third");
  const flusher = test.createFlusher();
  const statuses = async () =>
    (await storage.listSnapshots({}, { itemsMax: 9 })).items.map(({ status }) => status);
  await flusher.sweep();
  assertEquals(await statuses(), ["sealed", "sealed", "pending"]);
  assertEquals((await storage.getPool("main")).sequenceFlushed, 3);
  await flusher.sweep();
  assertEquals(await statuses(), ["sealed", "sealed", "sealed"]);
  const types = (await storage.findStream({})).lastEventId;
  assertEquals(types, 3 + 3 + 3 + 1);
});

Deno.test("flushStep() seals a bounded number of snapshots, and the next the others", async () => {
  await using test = await createTestStorage();
  await prepare(test);
  await test.storage.append(TESTER, "v", undefined, [write(0, 1)]);
  for (let index = 0; index < 70; index++) await take(test, `s-${index}`);
  const flusher = test.createFlusher();
  const flushed: number[] = [];
  while (await flusher.sweep()) flushed.push((await test.storage.getPool("main")).sequenceFlushed);
  assertEquals(flushed, [65, 71]);
  const { items } = await test.storage.listSnapshots({}, { itemsMax: 100 });
  assertEquals(items.filter(({ status }) => status === "sealed").length, 70);
});

Deno.test("flushStep() never puts an older block over a newer one", async () => {
  await using test = await createTestStorage();
  await prepare(test);
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 2)]);
  const newer = fill(77, 1, BLOCK_BYTES);
  await test.test.database.$client`
    insert into blocks select pool_id, device_id, segment_id, first_block, sequence + 1000, ${newer} from cache`;
  assertEquals(await stampsOf(test, 0, 2), [77, 2]);
  await test.drain();
  assertEquals(await stampsOf(test, 0, 2), [77, 2]);
});

Deno.test("flushStep() bounds a batch by its blocks too: a trim has a row for each and no bytes", async () => {
  await using test = await createTestStorage();
  await prepare(test);
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  await test.drain();
  await test.storage.append(TESTER, "v", undefined, [{ lba: 0, trim: 40 }]);
  const flusher = test.createFlusher({ limits: { ...STORAGE_LIMITS, flushBatchBlocksMax: 9 } });
  const left: number[] = [];
  while (await flusher.sweep()) left.push((await test.storage.getPool("main")).dirtyEntries);
  assertEquals(left, [8, 6, 4, 2, 0]);
  assertEquals(await stampsOf(test, 0, 40), new Array(40).fill(0));
});

Deno.test("flushStep() leaves a pool alone that another flusher holds", async () => {
  await using test = await createTestStorage();
  await prepare(test);
  await test.storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const held = Promise.withResolvers<void>();
  const holding = Promise.withResolvers<void>();
  const first = test.createFlusher({
    onPoint: async (point) => {
      if (point !== "copied") return;
      holding.resolve();
      await held.promise;
    },
  }).sweep();
  await holding.promise;
  assertEquals(await test.createFlusher().sweep(), false);
  held.resolve();
  assertEquals(await first, true);
  const { dirtyEntries, dirtyBytes, sequenceFlushed } = await test.storage.getPool("main");
  assertEquals([dirtyEntries, dirtyBytes, sequenceFlushed], [0, 0, 1]);
});

for (const point of POINTS) {
  Deno.test(`flushStep() that fails after "${point}" changed nothing, and is done by the next`, async () => {
    await using test = await createTestStorage();
    const { storage } = test;
    await prepare(test);
    await storage.append(TESTER, "v", undefined, [write(0, 1, 6)]);
    await take(test, "s");
    await storage.append(TESTER, "v", undefined, [write(0, 50, 6), { lba: 1, trim: 1 }]);
    const stateOf = async () => ({
      pool: await storage.getPool("main"),
      snapshot: await storage.getSnapshot("s"),
      events: (await storage.findStream({})).lastEventId,
      queue: (await storage.listCache("main", { itemsMax: 99 })).items,
    });
    const before = await stateOf();
    const broken = test.createFlusher({
      onPoint: (reached) => {
        if (reached === point) throw new Error("broken on purpose");
      },
    });
    await assertRejects(() => broken.sweep(), Error, "broken on purpose");
    assertEquals(await stateOf(), before);
    assertEquals(await stampsOf(test, 0, 6), [50, 0, 52, 53, 54, 55]);
    await test.drain();
    assertEquals(await stampsOf(test, 0, 6), [50, 0, 52, 53, 54, 55]);
    const snapshot = await storage.readSnapshot("s", undefined, undefined, { lba: 0, blockCount: 6 });
    assertEquals(readStamps(snapshot, BLOCK_BYTES), [1, 2, 3, 4, 5, 6]);
    assertEquals((await stateOf()).snapshot.status, "sealed");
  });
}

Deno.test("marker.progress is told between the steps, at most as often as its time, with falling numbers", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await prepare(test);
  for (let lba = 0; lba < 12; lba++) await storage.append(TESTER, "v", undefined, [write(lba, 1)]);
  const { snapshotId, pool: { poolId } } = await take(test, "s");
  let now = 0;
  const flusher = test.createFlusher({
    limits: { ...STORAGE_LIMITS, flushBatchEntriesMax: 2, progressMs: 1000 },
    clock: () => new Date(1_800_000_000_000 + now),
  });
  while (await flusher.sweep()) now += 400;
  const events = await storage.listEvents(poolId, { snapshotId, types: ["marker.progress"] }, 0, 99);
  assertEquals(events.map(({ body }) => body.entriesAhead), [10, 4]);
});

Deno.test("a flusher that gathers is woken by a marker, and by whoever waits for a flush", async () => {
  await using test = await createTestStorage({ flusher: true, limits: { flushGatherMs: 3_600_000 } });
  const { storage } = test;
  await prepare(test);
  for (let stamp = 1; stamp <= 3; stamp++) {
    await storage.append(TESTER, "v", undefined, [write(0, stamp)]);
    await storage.flushPool("main", AbortSignal.timeout(60_000));
    await storage.append(TESTER, "v", undefined, [write(1, stamp)]);
    const { status } = await storage.takeSnapshot(
      TESTER,
      { volumes: ["v"], untilSealed: true },
      AbortSignal.timeout(60_000),
    );
    assertEquals(status, "sealed");
  }
  assertEquals(await stampsOf(test, 0, 2), [3, 3]);
});
