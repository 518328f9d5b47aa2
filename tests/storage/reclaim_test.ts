import { assertEquals, assertRejects } from "@std/assert";
import { transact } from "../../src/database/client.ts";
import { StorageError } from "../../src/errors.ts";
import { reclaimStep } from "../../src/storage/reclaim.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { readStamps } from "../support/history.ts";
import { countTaken, readLive, readThen, take } from "../support/reclaiming.ts";
import {
  BLOCK_BYTES,
  createTestStorage,
  SEGMENT_BLOCKS,
  TESTER,
  type TestStorage,
  write,
} from "../support/storage.ts";

/** Takes reclaim steps until there is nothing to do. Answers how many segments came back. */
async function reclaim({ test: { database }, storage }: TestStorage): Promise<number> {
  const { poolId } = await storage.getPool("main");
  let returned = 0;
  for (let steps = 0; steps < 10_000; steps++) {
    const { idle, segmentsReturned } = await transact(database, (tx) => reclaimStep(tx, poolId, new Date()));
    returned += segmentsReturned;
    if (idle) return returned;
  }
  throw new Error("Reclaiming does not end");
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, StorageError) as StorageError).code;
}

Deno.test("deleting a snapshot leaves the live volume and the other snapshots as they are, and returns what it alone read", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await take(test, "a");
  await storage.append(TESTER, "v", undefined, [write(1, 20, 2)]);
  await take(test, "b");
  await storage.append(TESTER, "v", undefined, [write(2, 30), { lba: 5, trim: 1 }]);
  await take(test, "c");
  await storage.append(TESTER, "v", undefined, [write(0, 40)]);
  await test.drain();
  assertEquals(await countTaken(test), 6);
  const contents = {
    a: await readThen(test, "a", 8),
    c: await readThen(test, "c", 8),
    v: await readLive(test, "v", 8),
  };
  await storage.deleteSnapshot(TESTER, "b");
  assertEquals(await reclaim(test), 1);
  assertEquals([await readThen(test, "a", 8), await readThen(test, "c", 8), await readLive(test, "v", 8)], [
    contents.a,
    contents.c,
    contents.v,
  ]);
  assertEquals(await codeOf(readThen(test, "b", 8)), "snapshot-not-found");
  await storage.deleteSnapshot(TESTER, "c");
  await storage.deleteSnapshot(TESTER, "a");
  await reclaim(test);
  assertEquals(await readLive(test, "v", 8), contents.v);
  assertEquals(await countTaken(test), 2);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("a snapshot of selected blocks holds back only the segments that they lie in", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  await take(test, "whole");
  await storage.append(TESTER, "v", undefined, [write(0, 101, 40)]);
  const ranges = [{ volume: "v", lba: 5, blockCount: 1 }, { volume: "v", lba: 31, blockCount: 2 }];
  await storage.takeSnapshot(TESTER, { ranges, name: "some", untilSealed: false }, AbortSignal.timeout(1e4));
  await storage.append(TESTER, "v", undefined, [write(0, 201, 40)]);
  await take(test, "later");
  await storage.append(TESTER, "v", undefined, [write(0, 301, 40)]);
  await test.drain();
  assertEquals(await countTaken(test), 4 * 10);
  // Of the epoch that `some` reads, only its slots are held back, once no younger snapshot reads the others.
  await storage.deleteSnapshot(TESTER, "later");
  assertEquals(await reclaim(test), 10 + 10 - SLOTS_OF_SOME);
  assertEquals(await readSome(test), [106, 132, 133]);
  await storage.deleteSnapshot(TESTER, "whole");
  assertEquals(await reclaim(test), 10);
  assertEquals(await readSome(test), [106, 132, 133]);
  await storage.deleteVolume(TESTER, "v");
  assertEquals(await reclaim(test), 10);
  assertEquals([await countTaken(test), await readSome(test)], [SLOTS_OF_SOME, [106, 132, 133]]);
  await storage.deleteSnapshot(TESTER, "some");
  await reclaim(test);
  assertEquals(await countTaken(test), 0);
  await assertSpaceIsSound(test.test.database);
});

/** Segments have 4 blocks: block 5 lies in slot 1, blocks 31 and 32 in the slots 7 and 8. */
const SLOTS_OF_SOME = 3;

async function readSome({ storage }: TestStorage): Promise<number[]> {
  const stamps: number[] = [];
  for (const lba of [5, 31, 32]) {
    const bytes = await storage.readSnapshot("some", undefined, undefined, { lba, blockCount: 1 });
    stamps.push(...readStamps(bytes, BLOCK_BYTES));
  }
  return stamps;
}

Deno.test("deleting everything returns every segment, in whichever order, clones and reverts included", async () => {
  for (const order of ["clones last", "clones first"]) {
    await using test = await createTestStorage();
    const { storage } = test;
    await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
    await storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
    await take(test, "a");
    await storage.cloneVolume(TESTER, { name: "c", snapshot: "a" });
    await storage.append(TESTER, "c", undefined, [write(3, 50, 5)]);
    await take(test, "ca", "c");
    await storage.cloneVolume(TESTER, { name: "d", snapshot: "ca" });
    await storage.append(TESTER, "d", undefined, [write(9, 60)]);
    await storage.append(TESTER, "v", undefined, [write(7, 70)]);
    await storage.revertVolume(TESTER, "v", undefined, "a", { name: "safe" });
    await storage.append(TESTER, "v", undefined, [write(8, 80)]);
    const d = await readLive(test, "d", 40);
    const steps = [
      () => storage.deleteSnapshot(TESTER, "a"),
      () => storage.deleteVolume(TESTER, "v"),
      () => storage.deleteSnapshot(TESTER, "safe"),
      () => storage.deleteSnapshot(TESTER, "ca"),
      () => storage.deleteVolume(TESTER, "c"),
      () => storage.deleteVolume(TESTER, "d"),
    ];
    if (order === "clones first") steps.reverse();
    for (const [index, step] of steps.entries()) {
      await test.drain();
      await step();
      await reclaim(test);
      await assertSpaceIsSound(test.test.database);
      if (order === "clones last" && index < 5) assertEquals(await readLive(test, "d", 40), d);
    }
    assertEquals(await countTaken(test), 0);
    const [{ left }] = await test.test.database.$client`
      select (select count(*) from timelines) + (select count(*) from blocks) + (select count(*) from reclaims) as left`;
    assertEquals(left, 0);
  }
});

Deno.test("snapshots that went next to each other are reclaimed as one, many epochs in a step", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database } } = test;
  const slots = 32;
  const epochs = 8;
  const block = (slot: number) => slot * SEGMENT_BLOCKS;
  await storage.createVolume(TESTER, { name: "v", blockCount: block(slots) });
  await storage.append(TESTER, "v", undefined, [write(0, 1, block(slots))]);
  for (let epoch = 0; epoch < epochs; epoch++) {
    await take(test, `s${epoch}`);
    const written = Array.from({ length: slots / epochs }, (_, index) => index * epochs + epoch);
    await storage.append(TESTER, "v", undefined, written.map((slot) => write(block(slot), 100 + slot)));
  }
  await take(test, "last");
  await storage.append(
    TESTER,
    "v",
    undefined,
    Array.from({ length: slots }, (_, slot) => write(block(slot) + 1, 200 + slot)),
  );
  await test.drain();
  const contents = await readLive(test, "v", block(slots));
  for (let epoch = 0; epoch < epochs; epoch++) await storage.deleteSnapshot(TESTER, `s${epoch}`);
  await storage.deleteSnapshot(TESTER, "last");

  // The epochs, what was there before them, and the end.
  const { poolId } = await storage.getPool("main");
  const steps: number[] = [];
  for (let step = 0; step < 3; step++) {
    const { segmentsReturned } = await transact(database, (tx) => reclaimStep(tx, poolId, new Date()));
    steps.push(segmentsReturned);
  }
  assertEquals([steps, await reclaim(test)], [[slots, slots, 0], 0]);
  const told = await database.$client`select body from events where type = 'reclaim.progress'`;
  assertEquals(told.map(({ body }) => body.segmentsReturned), [2 * slots]);
  assertEquals(await readLive(test, "v", block(slots)), contents);
  await assertSpaceIsSound(database);
});

Deno.test("a snapshot of selected blocks that goes when another's reclaim has come by it is reclaimed too", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database } } = test;
  const { poolId } = await storage.getPool("main");
  const step = () => transact(database, (tx) => reclaimStep(tx, poolId, new Date()));
  await storage.createVolume(TESTER, { name: "v", blockCount: 2 * SEGMENT_BLOCKS });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 2 * SEGMENT_BLOCKS)]);
  const range = { volume: "v", lba: 0, blockCount: 1 };
  await storage.takeSnapshot(
    TESTER,
    { ranges: [range], name: "a", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  await storage.append(TESTER, "v", undefined, [write(0, 2), write(SEGMENT_BLOCKS, 2)]);
  await take(test, "b");
  await storage.append(TESTER, "v", undefined, [write(0, 3), write(SEGMENT_BLOCKS, 3)]);
  await test.drain();
  const contents = await readLive(test, "v", 2 * SEGMENT_BLOCKS);
  assertEquals(await reclaim(test), 1);
  await storage.deleteSnapshot(TESTER, "b");
  assertEquals([(await step()).segmentsReturned, (await step()).segmentsReturned], [2, 0]);
  await storage.deleteSnapshot(TESTER, "a");
  assertEquals(await reclaim(test), 1);
  assertEquals([await countTaken(test), await readLive(test, "v", 2 * SEGMENT_BLOCKS)], [2, contents]);
  await assertSpaceIsSound(database);
});

Deno.test("reclaiming waits for entries that are still in the queue, and a newer one there goes on to win", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 4 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 3)]);
  await take(test, "a");
  await storage.append(TESTER, "v", undefined, [write(1, 9)]);
  await storage.deleteSnapshot(TESTER, "a");
  assertEquals(
    (await storage.getSnapshot((await storage.listSnapshots({}, { itemsMax: 1 })).items[0].snapshotId))
      .status,
    "cancelled",
  );
  assertEquals([await reclaim(test), await readLive(test, "v", 4)], [0, [1, 9, 3, 0]]);
  await test.drain();
  assertEquals([await reclaim(test), await readLive(test, "v", 4)], [1, [1, 9, 3, 0]]);

  await take(test, "b");
  await test.drain();
  await storage.append(TESTER, "v", undefined, [write(0, 7)]);
  await storage.deleteSnapshot(TESTER, "b");
  assertEquals([await reclaim(test), await readLive(test, "v", 4)], [1, [7, 9, 3, 0]]);
  await test.drain();
  assertEquals(await readLive(test, "v", 4), [7, 9, 3, 0]);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("cancelling a pending snapshot takes its marker out of the queue; those around it are sealed as ever", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 4 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  await take(test, "a");
  await storage.append(TESTER, "v", undefined, [write(0, 2)]);
  await take(test, "b");
  await storage.append(TESTER, "v", undefined, [write(0, 3)]);
  await take(test, "c");
  const { snapshotId } = await storage.getSnapshot("b");
  await storage.deleteSnapshot(TESTER, "b");
  const { items } = await storage.listCache("main", { itemsMax: 10 });
  assertEquals(items.map(({ kind }) => kind), ["write", "marker", "write", "trim", "write", "marker"]);
  assertEquals(
    await codeOf(storage.readSnapshot(snapshotId, undefined, undefined, { lba: 0, blockCount: 1 })),
    "snapshot-not-found",
  );
  assertEquals(
    await codeOf(storage.cloneVolume(TESTER, { name: "x", snapshot: snapshotId })),
    "snapshot-not-found",
  );
  await test.drain();
  await reclaim(test);
  assertEquals([await readThen(test, "a", 1), await readThen(test, "c", 1)], [[1], [3]]);
  const statuses = (await storage.listSnapshots({}, { itemsMax: 10 })).items.map(({ status }) => status);
  assertEquals(statuses, ["sealed", "cancelled", "sealed"]);
  const { dirtyEntries, sequenceAppended, sequenceFlushed } = await storage.getPool("main");
  assertEquals([dirtyEntries, sequenceFlushed], [0, sequenceAppended]);
  await take(test, "b");
  await storage.deleteSnapshot(TESTER, snapshotId);
  assertEquals(await codeOf(storage.getSnapshot(snapshotId)), "snapshot-not-found");
  assertEquals(await codeOf(storage.deleteSnapshot(TESTER, snapshotId)), "snapshot-not-found");
});

Deno.test("whoever waits for the seal of a snapshot that is cancelled is told so", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 4 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const snapshot = { volumes: ["v"], name: "s", untilSealed: true };
  const waiting = storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(2e4));
  for (let looks = 0; looks < 10_000; looks++) {
    const { items } = await storage.listSnapshots({}, { itemsMax: 1 });
    if (items.length > 0) break;
  }
  await storage.deleteSnapshot(TESTER, "s");
  const { status, auditId } = await waiting;
  assertEquals(status, "cancelled");
  assertEquals((await storage.getAuditRecord(auditId)).command?.scsiStatus, "CHECK CONDITION");
});

Deno.test("segments that came back are taken again", async () => {
  await using test = await createTestStorage({ deviceBlocks: 8 });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  for (let round = 1; round <= 5; round++) {
    await storage.append(TESTER, "v", undefined, [write(0, round, 8)]);
    assertEquals(await readLive(test, "v", 8), Array.from({ length: 8 }, (_, i) => round + i));
    assertEquals(await codeOf(storage.append(TESTER, "v", undefined, [write(50, 1)])), "insufficient-space");
    await test.drain();
    await storage.deleteVolume(TESTER, "v");
    assertEquals(await reclaim(test), 2);
    await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  }
  await assertSpaceIsSound(test.test.database);
});

Deno.test("the reclaimer works by itself, and a read of a snapshot that goes meanwhile is refused, never wrong", async () => {
  await using test = await createTestStorage({ flusher: true });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  await take(test, "s", "v", true);
  await storage.append(TESTER, "v", undefined, [write(0, 101, 40)]);
  await storage.flushPool("main", AbortSignal.timeout(1e4));
  const expected = Array.from({ length: 40 }, (_, i) => i + 1);
  const { snapshotId } = await storage.getSnapshot("s");
  const reads = Array.from({ length: 200 }, async () => {
    try {
      assertEquals(await readThen(test, snapshotId, 40), expected);
    } catch (error) {
      assertEquals((error as StorageError).code, "snapshot-not-found");
    }
  });
  await storage.deleteSnapshot(TESTER, "s");
  await Promise.all(reads);
  for (let looks = 0; looks < 10_000 && await countTaken(test) > 10; looks++);
  assertEquals(await countTaken(test), 10);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("holdSnapshot(): nobody deletes or cancels it before, and the hold is only ever extended", async () => {
  const now = { at: new Date("2026-01-01T00:00:00Z") };
  await using test = await createTestStorage({ clock: () => now.at });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 4 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  await take(test, "s");
  const hold = (until: string) =>
    storage.holdSnapshot(TESTER, "s", undefined, { until: new Date(until), reason: "audit" });
  assertEquals(await codeOf(hold("2025-12-31T00:00:00Z")), "invalid-argument");
  assertEquals((await hold("2026-01-02T00:00:00Z")).hold, {
    until: new Date("2026-01-02T00:00:00Z"),
    reason: "audit",
  });
  assertEquals(await codeOf(hold("2026-01-01T12:00:00Z")), "held");
  assertEquals(await codeOf(storage.deleteSnapshot(TESTER, "s")), "held");
  await test.drain();
  assertEquals([(await storage.getSnapshot("s")).status, await codeOf(storage.deleteSnapshot(TESTER, "s"))], [
    "sealed",
    "held",
  ]);
  await hold("2026-01-03T00:00:00Z");
  now.at = new Date("2026-01-02T12:00:00Z");
  assertEquals(await codeOf(storage.deleteSnapshot(TESTER, "s")), "held");
  now.at = new Date("2026-01-03T00:00:00Z");
  await storage.deleteSnapshot(TESTER, "s");
  assertEquals(await codeOf(hold("2026-01-09T00:00:00Z")), "snapshot-not-found");
});
