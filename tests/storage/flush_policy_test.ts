import { assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { StorageError } from "../../src/errors.ts";
import { isQueueStalled } from "../../src/storage/flusher.ts";
import { type FlushPolicyInput, judgeFlush, type QueueState } from "../../src/storage/flush_policy.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const START = Date.UTC(2026, 0, 1);
const CACHE_BYTES_MAX = 100 * BLOCK_BYTES;
const INTERVAL: FlushPolicyInput = { kind: "interval", intervalMs: 5_000 };
const THRESHOLD: FlushPolicyInput = { kind: "threshold", dirtyBytes: 3 * BLOCK_BYTES };

interface Bed extends AsyncDisposable {
  readonly test: TestStorage;
  readonly clock: { ms: number };
  /** One look of a flusher of its own, as that of another process; answers how many entries are left. */
  look(): Promise<number>;
  append(lba: number): Promise<void>;
}

async function prepare(policy: FlushPolicyInput): Promise<Bed> {
  const clock = { ms: 0 };
  const at = () => new Date(START + clock.ms);
  const test = await createTestStorage({ clock: at, cacheBytesMax: CACHE_BYTES_MAX });
  const { storage } = test;
  await storage.changePool(TESTER, "main", { flushPolicy: policy });
  await storage.createVolume(TESTER, { name: "v", blockCount: 200 });
  const limits = { ...STORAGE_LIMITS, flushBatchEntriesMax: 2 };
  return {
    test,
    clock,
    look: async () => {
      await test.createFlusher({ clock: at, limits }).sweep();
      return (await storage.getPool("main")).dirtyEntries;
    },
    append: async (lba) => void await storage.append(TESTER, "v", undefined, [write(lba, lba + 1)]),
    [Symbol.asyncDispose]: () => test[Symbol.asyncDispose](),
  };
}

Deno.test("judgeFlush() lets entries rest up to the policy's age and depth, and no longer", () => {
  const at = new Date(START);
  const queue: QueueState = {
    policy: { kind: "interval", intervalMs: 1_000 },
    isThrough: false,
    cacheBytesMax: 1_000,
    dirtyBytes: 399,
    sequenceFlushed: 7,
    sequenceAsked: 7,
    hasMarker: false,
    oldestAt: new Date(START - 999),
  };
  const threshold = { kind: "threshold", dirtyBytes: 300, maxAgeMs: 1_000 } as const;
  const judge = (change: Partial<QueueState>) => judgeFlush({ ...queue, ...change }, at, STORAGE_LIMITS);
  assertEquals(judge({}), "resting");
  assertEquals(judge({ oldestAt: new Date(START - 1_000) }), "due");
  // By a clock that was set back since.
  assertEquals(judge({ oldestAt: new Date(START + 999) }), "resting");
  assertEquals(judge({ oldestAt: new Date(START + 1_000) }), "due");
  assertEquals(judge({ dirtyBytes: 400 }), "due");
  assertEquals(judge({ hasMarker: true }), "asked");
  assertEquals(judge({ sequenceAsked: 8 }), "asked");
  assertEquals(judge({ isThrough: true }), "asked");
  assertEquals(judge({ policy: { kind: "at-once" } }), "asked");
  assertEquals(judge({ policy: threshold, dirtyBytes: 299 }), "resting");
  assertEquals(judge({ policy: threshold, dirtyBytes: 300 }), "due");
  assertEquals(judge({ policy: threshold, dirtyBytes: 1, oldestAt: new Date(START - 1_000) }), "due");
});

Deno.test("an interval lets entries wait so long, and then flushes all there were, in as many steps as it takes", async () => {
  await using bed = await prepare(INTERVAL);
  for (let lba = 0; lba < 5; lba++) await bed.append(lba);
  bed.clock.ms = 4_999;
  assertEquals(await bed.look(), 5);
  bed.clock.ms = 5_000;
  const left = [await bed.look()];
  await bed.append(9);
  left.push(await bed.look(), await bed.look(), await bed.look());
  assertEquals(left, [3, 2, 0, 0]);
  await bed.append(10);
  bed.clock.ms = 9_999;
  assertEquals(await bed.look(), 1);
  bed.clock.ms = 10_000;
  assertEquals(await bed.look(), 0);
});

Deno.test("a threshold lets entries wait below it, and what is left in a pool at rest for its longest time", async () => {
  await using bed = await prepare(THRESHOLD);
  await bed.append(0);
  await bed.append(1);
  assertEquals(await bed.look(), 2);
  await bed.append(2);
  assertEquals([await bed.look(), await bed.look()], [1, 0]);
  await bed.append(3);
  bed.clock.ms = STORAGE_LIMITS.flushAgeMsDefault - 1;
  assertEquals(await bed.look(), 1);
  bed.clock.ms += 1;
  assertEquals(await bed.look(), 0);
});

Deno.test("a marker is flushed to at once whatever the policy, and what is behind it goes on resting", async () => {
  await using bed = await prepare(INTERVAL);
  const { storage } = bed.test;
  for (let lba = 0; lba < 3; lba++) await bed.append(lba);
  const signal = AbortSignal.timeout(60_000);
  const { snapshotId } = await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, signal);
  await bed.append(3);
  const left = [await bed.look(), await bed.look(), await bed.look()];
  assertEquals(left, [3, 1, 1]);
  assertEquals((await storage.getSnapshot(snapshotId)).status, "sealed");
});

Deno.test("who waits for a flush gets it at once whatever the policy, from a flusher in another process", async () => {
  await using bed = await prepare(INTERVAL);
  for (let lba = 0; lba < 3; lba++) await bed.append(lba);
  await using other = await bed.test.openAnother({ flusher: true });
  const { sequenceFlushed } = await bed.test.storage.flushPool("main", AbortSignal.timeout(60_000));
  assertEquals([sequenceFlushed, (await other.getPool("main")).dirtyEntries], [3, 0]);
});

Deno.test("a flush that was asked for behind what was written through is over with it", async () => {
  await using bed = await prepare(INTERVAL);
  const { storage } = bed.test;
  await storage.changePool(TESTER, "main", { cacheMode: "write-through" });
  for (let lba = 0; lba < 3; lba++) await bed.append(lba);
  assertEquals((await storage.flushPool("main", AbortSignal.timeout(60_000))).sequenceFlushed, 3);
  await storage.changePool(TESTER, "main", { cacheMode: "write-back" });
  await bed.append(3);
  assertEquals(await bed.look(), 1);
  bed.clock.ms = 5_000;
  assertEquals(await bed.look(), 0);
});

Deno.test("a cache that fills is flushed whatever the policy, before writes are slowed", async () => {
  await using bed = await prepare({ kind: "interval", intervalMs: 600_000 });
  const blocks = STORAGE_LIMITS.flushPressureShare * CACHE_BYTES_MAX / BLOCK_BYTES;
  await bed.test.storage.append(TESTER, "v", undefined, [write(0, 1, blocks - 1)]);
  const resting = (await bed.test.storage.getPool("main")).dirtyEntries;
  assertEquals(await bed.look(), resting);
  await bed.append(100);
  for (let looks = 0; looks < 20 && await bed.look() > 0; looks++);
  assertEquals((await bed.test.storage.getPool("main")).dirtyBytes, 0);
});

Deno.test("a flusher is not woken by appends that its policy lets wait", async () => {
  let looks = 0;
  await using bed = await prepare(INTERVAL);
  const flusher = bed.test.createFlusher({
    limits: { ...STORAGE_LIMITS, flushPollMs: 3_600_000 },
    clock: () => (looks += 1, new Date(START)),
  });
  flusher.start();
  await bed.append(0);
  flusher.wake();
  while (looks < 2) await new Promise((resolve) => setTimeout(resolve, 1));
  await bed.append(1);
  const before = looks;
  flusher.nudge();
  await flusher.stop();
  assertEquals(looks, before);
});

Deno.test("isQueueStalled() counts from when the policy would have flushed, and for a marker from its commit", async () => {
  await using bed = await prepare(INTERVAL);
  const { test: { test, storage } } = bed;
  const stalled = (sinceMs: number) =>
    isQueueStalled(test.database, new Date(START + sinceMs + 1_000), 1_000);
  await bed.append(0);
  assertEquals([await stalled(5_000), await stalled(5_001)], [false, true]);
  const signal = AbortSignal.timeout(60_000);
  await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, signal);
  assertEquals([await stalled(0), await stalled(1)], [false, true]);
});

Deno.test("changePool() refuses a policy that cannot be kept, and changes nothing", async () => {
  await using bed = await prepare(INTERVAL);
  const most = STORAGE_LIMITS.flushPressureShare * CACHE_BYTES_MAX;
  const bad: FlushPolicyInput[] = [
    { kind: "interval", intervalMs: 99 },
    { kind: "interval", intervalMs: 600_001 },
    { kind: "threshold", dirtyBytes: BLOCK_BYTES - 1 },
    { kind: "threshold", dirtyBytes: most + 1 },
    { kind: "threshold", dirtyBytes: BLOCK_BYTES, maxAgeMs: 600_001 },
  ];
  for (const flushPolicy of bad) {
    const changing = bed.test.storage.changePool(TESTER, "main", { flushPolicy });
    assertEquals((await assertRejects(() => changing, StorageError)).code, "invalid-argument");
  }
  assertEquals((await bed.test.storage.getPool("main")).flushPolicy, INTERVAL);
});
