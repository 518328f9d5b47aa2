import { assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const write = (lba: number, stamp: number) => ({ lba, data: fill(stamp, 1, BLOCK_BYTES) });

async function stampsOf({ storage }: TestStorage, volume: string, blockCount: number) {
  return readStamps(await storage.readVolume(volume, undefined, { lba: 0, blockCount }), BLOCK_BYTES);
}

async function take(
  { storage }: TestStorage,
  name: string,
  input: { lba?: number; blockCount?: number } = {},
) {
  const snapshot = { volumes: ["v"], name, untilSealed: false, ...input };
  return await storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(1e4));
}

async function rejectsWith(code: string, promise: Promise<unknown>): Promise<void> {
  assertEquals((await assertRejects(() => promise, StorageError) as StorageError).code, code);
}

/** Volume `v` of ten blocks: 1 and 2 at the snapshot `s`, then 9 over the first. */
async function createSnapshot(): Promise<TestStorage> {
  const test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 10 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1), write(5, 2)]);
  await take(test, "s");
  await test.storage.append(TESTER, "v", undefined, [write(0, 9)]);
  return test;
}

Deno.test("cloneVolume() is a volume of its own with the snapshot's contents, before and after the flush", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  const clone = await storage.cloneVolume(TESTER, { name: "c", snapshot: "s" });
  assertEquals(clone.blockCount, 10);
  await storage.append(TESTER, "c", undefined, [write(1, 3), { lba: 5, trim: 1 }]);
  await storage.append(TESTER, "v", undefined, [write(2, 8)]);
  for (const drained of [false, true]) {
    if (drained) await test.drain();
    assertEquals(await stampsOf(test, "c", 10), [1, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    assertEquals(await stampsOf(test, "v", 10), [9, 0, 8, 0, 0, 2, 0, 0, 0, 0]);
  }
});

Deno.test("cloneVolume() of a clone's snapshot reads on through all of its ancestors", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  for (let generation = 1; generation <= 5; generation++) {
    const name = `c${generation}`;
    await storage.cloneVolume(TESTER, { name, snapshot: generation === 1 ? "s" : `s${generation - 1}` });
    await storage.append(TESTER, name, undefined, [write(generation, 10 + generation)]);
    const snapshot = { volumes: [name], name: `s${generation}`, untilSealed: false };
    await storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(1e4));
    await storage.append(TESTER, name, undefined, [write(0, 99)]);
  }
  await storage.cloneVolume(TESTER, { name: "last", snapshot: "s5" });
  assertEquals(await stampsOf(test, "last", 10), [1, 11, 12, 13, 14, 15, 0, 0, 0, 0]);
});

Deno.test("cloneVolume() may be larger than its source, never smaller, and reads zeros behind its end", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  await storage.changeVolume(TESTER, "v", undefined, { blockCount: 20 });
  await storage.append(TESTER, "v", undefined, [write(12, 7)]);
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "s", blockCount: 14 });
  assertEquals(await stampsOf(test, "c", 14), [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
  await rejectsWith(
    "invalid-argument",
    storage.cloneVolume(TESTER, { name: "d", snapshot: "s", blockCount: 9 }),
  );
});

Deno.test("cloneVolume() refuses what it cannot make, and leaves nothing", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  await take(test, "part", { lba: 0, blockCount: 4 });
  await storage.createVolume(TESTER, { name: "w", blockCount: 1 });
  const clone = (input: { name: string; snapshot: string; volume?: string }) =>
    storage.cloneVolume(TESTER, input);
  await rejectsWith("outside-snapshot", clone({ name: "c", snapshot: "part" }));
  await rejectsWith("outside-snapshot", clone({ name: "c", snapshot: "s", volume: "w" }));
  await rejectsWith("snapshot-not-found", clone({ name: "c", snapshot: "nowhere" }));
  await rejectsWith("name-taken", clone({ name: "w", snapshot: "s" }));
  await rejectsWith("invalid-argument", clone({ name: "-", snapshot: "s" }));
  assertEquals((await storage.listVolumes(undefined, { itemsMax: 10 })).items.map(({ name }) => name), [
    "v",
    "w",
  ]);
  const { items } = await storage.listAudit({ itemsMax: 100 });
  assertEquals(items.filter(({ action }) => action === "volume.clone"), []);
});

Deno.test("revertVolume() goes on from the snapshot, and the safety snapshot has what was given up", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  const { sequence, safetySnapshotId } = await storage.revertVolume(TESTER, "v", undefined, "s", {
    name: "safe",
  });
  assertEquals(sequence, 5);
  assertEquals(await stampsOf(test, "v", 10), [1, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
  const after = await storage.append(TESTER, "v", undefined, [write(5, 6)]);
  assertEquals(after.sequence, sequence + 1);
  for (const drained of [false, true]) {
    if (drained) await test.drain();
    assertEquals(await stampsOf(test, "v", 10), [1, 0, 0, 0, 0, 6, 0, 0, 0, 0]);
    const range = { lba: 0, blockCount: 10 };
    const safe = await storage.readSnapshot(safetySnapshotId as string, undefined, undefined, range);
    assertEquals(readStamps(safe, BLOCK_BYTES), [9, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
  }
  await storage.revertVolume(TESTER, "v", undefined, "safe");
  assertEquals(await stampsOf(test, "v", 10), [9, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
  assertEquals((await storage.getSnapshot("safe")).status, "sealed");
});

Deno.test("revertVolume() gives back the size, and other processes notice at once", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  const other = await test.openAnother();
  await other.append(TESTER, "v", undefined, [write(3, 5)]);
  await storage.changeVolume(TESTER, "v", undefined, { blockCount: 20 });
  await other.append(TESTER, "v", undefined, [write(19, 5)]);
  const { volume } = await storage.revertVolume(TESTER, "v", undefined, "s");
  assertEquals(volume.blockCount, 10);
  await rejectsWith("lba-out-of-range", other.append(TESTER, "v", undefined, [write(19, 5)]));
  await other.append(TESTER, "v", undefined, [write(4, 4)]);
  assertEquals(await stampsOf(test, "v", 10), [1, 0, 0, 0, 4, 2, 0, 0, 0, 0]);
});

Deno.test("revertVolume() while clients write: each write is wholly before or behind it, as its sequence tells", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  const answers = await Promise.all([
    ...Array.from({ length: 50 }, (_, i) => storage.append(TESTER, "v", undefined, [write(i % 10, 20 + i)])),
    storage.revertVolume(TESTER, "v", undefined, "s"),
    ...Array.from({ length: 50 }, (_, i) => storage.append(TESTER, "v", undefined, [write(i % 10, 120 + i)])),
  ]);
  const reverted = answers[50];
  const expected = [1, 0, 0, 0, 0, 2, 0, 0, 0, 0];
  const writes = answers.flatMap(({ sequence }, i) =>
    i === 50 || sequence <= reverted.sequence
      ? []
      : [{ sequence, i: i < 50 ? i : i - 51, base: i < 50 ? 20 : 120 }]
  ).toSorted((a, b) => a.sequence - b.sequence);
  for (const { i, base } of writes) expected[i % 10] = base + i;
  assertEquals(await stampsOf(test, "v", 10), expected);
  await test.drain();
  assertEquals(await stampsOf(test, "v", 10), expected);
});

Deno.test("revertVolume() that is refused changes nothing", async () => {
  await using test = await createSnapshot();
  const { storage } = test;
  await take(test, "part", { lba: 1, blockCount: 4 });
  await storage.createVolume(TESTER, { name: "w", blockCount: 1 });
  await rejectsWith("outside-snapshot", storage.revertVolume(TESTER, "v", undefined, "part", {}));
  await rejectsWith("outside-snapshot", storage.revertVolume(TESTER, "w", undefined, "s", {}));
  await rejectsWith("name-taken", storage.revertVolume(TESTER, "v", undefined, "s", { name: "part" }));
  await rejectsWith("snapshot-not-found", storage.revertVolume(TESTER, "v", undefined, "nowhere"));
  assertEquals(await stampsOf(test, "v", 10), [9, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
  assertEquals((await storage.listSnapshots({}, { itemsMax: 10 })).items.length, 2);
});
