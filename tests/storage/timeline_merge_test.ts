import { assertEquals } from "@std/assert";
import { transact } from "../../src/database/client.ts";
import { reclaimStep } from "../../src/storage/reclaim.ts";
import { beginStaging, dropStaging } from "../../src/storage/staging.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { countTaken, readLive, readThen, reclaimAll, take } from "../support/reclaiming.ts";
import { createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const STEPS_MAX = 1_000;

async function revert({ storage }: TestStorage, volume: string, snapshot: string): Promise<void> {
  await storage.revertVolume(TESTER, volume, undefined, snapshot);
}

/** Reclaims step by step, and answers how often what `read` answers was asked for: it has to stay the same behind each. */
async function reclaimWatched(
  { test: { database }, storage }: TestStorage,
  read: () => Promise<unknown>,
): Promise<number> {
  const { poolId } = await storage.getPool("main");
  const expected = await read();
  for (let steps = 1; steps <= STEPS_MAX; steps++) {
    const { idle } = await transact(database, (tx) => reclaimStep(tx, poolId, new Date()));
    assertEquals(await read(), expected, `step ${steps}`);
    if (idle) return steps;
  }
  throw new Error("Reclaiming does not end");
}

async function countTimelines({ test: { database } }: TestStorage): Promise<number> {
  const [{ timelines }] = await database.$client`select count(*) as timelines from timelines`;
  return timelines;
}

Deno.test("a volume that is reverted again and again takes no more than what can be read", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  for (let round = 0; round < 6; round++) {
    await take(test, `round-${round}`, "v");
    await storage.append(TESTER, "v", undefined, [write(0, 1_000 + round, 40)]);
    await revert(test, "v", `round-${round}`);
    await storage.append(TESTER, "v", undefined, [write(5 * round, 100 * (round + 1), 8)]);
    await storage.deleteSnapshot(TESTER, `round-${round}`);
    if (round % 2 === 0) await test.drain();
  }
  // Entries of some of the timelines are in the cache still.
  await reclaimWatched(test, () => readLive(test, "v", 40));
  const contents = await readLive(test, "v", 40);
  await test.drain();
  await reclaimAll(test.test.database);
  assertEquals(await readLive(test, "v", 40), contents);
  // The ten slots of the volume, and nothing of the six timelines that it has left.
  assertEquals([await countTaken(test), await countTimelines(test)], [10, 1]);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("clones of clones read the same at every step while those between them go, also their snapshots and changes", async () => {
  await using test = await createTestStorage({ deviceBlocks: 8_192 });
  const { storage } = test;
  // Of more slots than a step moves.
  const blockCount = 1_200;
  await storage.createVolume(TESTER, { name: "0", blockCount });
  await storage.append(TESTER, "0", undefined, [write(0, 1, blockCount)]);
  await take(test, "s0", "0");
  for (let generation = 1; generation <= 3; generation++) {
    await storage.cloneVolume(TESTER, { name: `${generation}`, snapshot: `s${generation - 1}` });
    await storage.append(TESTER, `${generation}`, undefined, [
      write(10 * generation, 10_000 * generation, 1_100),
    ]);
    await take(test, `s${generation}`, `${generation}`);
    await storage.append(TESTER, `${generation}`, undefined, [
      write(900 + generation, 20_000 * generation, 2),
    ]);
  }
  await storage.append(TESTER, "3", undefined, [{ lba: 0, trim: 3 }]);
  await test.drain();
  const listed = { itemsMax: 1_000, startLba: 0 };
  const read = async () => ({
    first: await readThen(test, "s0", blockCount),
    last: await readThen(test, "s3", blockCount),
    live: await readLive(test, "3", blockCount),
    changes: await storage.listChanges("s3", undefined, undefined, "s0", listed),
    allocated: await storage.listVolumeRanges("3", undefined, listed),
  });
  for (const generation of [1, 2]) {
    await storage.deleteVolume(TESTER, `${generation}`);
    await storage.deleteSnapshot(TESTER, `s${generation}`);
  }
  await reclaimWatched(test, read);
  // That of the first volume and its snapshot, and one for all behind it.
  assertEquals(await countTimelines(test), 2);
  await assertSpaceIsSound(test.test.database);
  await storage.deleteVolume(TESTER, "0");
  await storage.deleteSnapshot(TESTER, "s0");
  const steps = await reclaimWatched(test, async () => ({
    last: await readThen(test, "s3", blockCount),
    live: await readLive(test, "3", blockCount),
  }));
  // Three hundred slots move in more than one step.
  assertEquals([await countTimelines(test), steps > 4], [1, true]);
  // The snapshot's slots, and two that were written and one that was trimmed behind it.
  assertEquals(await countTaken(test), blockCount / 4 + 3);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("a timeline that two read is left as it is until one of them goes", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await take(test, "s", "v");
  for (const [index, name] of ["a", "b"].entries()) {
    await storage.cloneVolume(TESTER, { name, snapshot: "s" });
    await storage.append(TESTER, name, undefined, [write(index, 50 + index)]);
  }
  await test.drain();
  await storage.deleteVolume(TESTER, "v");
  await storage.deleteSnapshot(TESTER, "s");
  await reclaimAll(test.test.database);
  assertEquals([await countTimelines(test), await countTaken(test)], [3, 4]);
  await storage.deleteVolume(TESTER, "a");
  await reclaimWatched(test, () => readLive(test, "b", 8));
  assertEquals([await countTimelines(test), await countTaken(test)], [1, 2]);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("a timeline goes together with the one that it is just being merged into", async () => {
  await using test = await createTestStorage({ deviceBlocks: 8_192 });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 1_200 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 1_200)]);
  await take(test, "s", "v");
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "s" });
  await storage.append(TESTER, "c", undefined, [write(600, 5_000, 8)]);
  await test.drain();
  await storage.deleteVolume(TESTER, "v");
  await storage.deleteSnapshot(TESTER, "s");
  const { poolId } = await storage.getPool("main");
  const { $client } = test.test.database;
  const step = () => transact(test.test.database, (tx) => reclaimStep(tx, poolId, new Date()));
  const countMoved = async () => {
    const [{ moved }] = await $client`
      select count(*) as moved from segment_map m join timelines t using (pool_id, timeline_id)
      where t.first_epoch > m.epoch`;
    return moved;
  };
  let steps = 0;
  for (; await countMoved() === 0 && steps < STEPS_MAX; steps++) await step();
  assertEquals([await countMoved(), await countTimelines(test)], [256, 2]);
  await storage.deleteVolume(TESTER, "c");
  await reclaimAll(test.test.database);
  assertEquals([await countTimelines(test), await countTaken(test)], [0, 0]);
  await assertSpaceIsSound(test.test.database);
});

Deno.test("no timeline is merged into staged contents, which nobody reads yet", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database } } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await take(test, "base", "v");
  await take(test, "other", "v");
  const volume = await storage.getVolume("v");
  const { snapshotId: baseId } = await storage.getSnapshot("base");
  const { timelineId, stagingId } = await beginStaging(database, volume, { baseId, blockCount: 40 });
  // The volume goes another way, and what both started from goes.
  await storage.deleteVolume(TESTER, "v");
  for (const name of ["base", "other"]) await storage.deleteSnapshot(TESTER, name);
  await test.drain();
  await reclaimAll(database);
  const [{ parent }] = await database.$client`
    select parent_timeline_id as parent from timelines where timeline_id = ${timelineId}`;
  assertEquals([parent, await countTaken(test)], [volume.timelineId, 2]);
  await dropStaging(database, volume.pool.poolId, stagingId, new Date());
  await reclaimAll(database);
  assertEquals([await countTimelines(test), await countTaken(test)], [0, 0]);
  await assertSpaceIsSound(database);
});

Deno.test("a timeline from before whose epochs count from zero stays where it is", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await take(test, "s", "v");
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "s" });
  // As the schema before made them.
  await test.test.database
    .$client`update timelines set open_epoch = 0, first_epoch = 0 where parent_timeline_id is not null`;
  await storage.append(TESTER, "c", undefined, [write(3, 50, 2)]);
  await test.drain();
  await storage.deleteVolume(TESTER, "v");
  await storage.deleteSnapshot(TESTER, "s");
  await reclaimWatched(test, () => readLive(test, "c", 8));
  assertEquals([await countTimelines(test), await readLive(test, "c", 8)], [2, [
    1,
    2,
    3,
    50,
    51,
    6,
    7,
    8,
  ]]);
  await assertSpaceIsSound(test.test.database);
});
