import { assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

async function take({ storage }: TestStorage, volumes?: string[]): Promise<string> {
  const asked = { ...(volumes === undefined ? {} : { volumes }), untilSealed: false };
  return (await storage.takeSnapshot(TESTER, asked, AbortSignal.timeout(10_000))).snapshotId;
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, StorageError) as StorageError).code;
}

Deno.test("takeSnapshot() refuses one more than a volume may have, alone or with others, and changes nothing", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  for (const name of ["v", "w"]) await storage.createVolume(TESTER, { name, blockCount: 8 });
  const first = await take(test, ["v"]);
  await storage.changeVolume(TESTER, "v", undefined, { snapshotsMax: 2 });
  await take(test, ["v", "w"]);
  const { sequenceAppended } = await storage.getPool("main");
  assertEquals(await codeOf(take(test, ["v"])), "too-many-snapshots");
  assertEquals(await codeOf(take(test)), "too-many-snapshots");
  assertEquals((await storage.getPool("main")).sequenceAppended, sequenceAppended);
  // Others are not held up, and room comes back.
  await take(test, ["w"]);
  await storage.deleteSnapshot(TESTER, first);
  await take(test, ["v"]);
  assertEquals(await codeOf(take(test, ["v"])), "too-many-snapshots");
});

Deno.test("takeSnapshot() counts those of every timeline that a volume had, and a clone's are its own", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const first = await take(test, ["v"]);
  await storage.revertVolume(TESTER, "v", undefined, first);
  await storage.changeVolume(TESTER, "v", undefined, { snapshotsMax: 1 });
  assertEquals(await codeOf(take(test, ["v"])), "too-many-snapshots");
  await storage.cloneVolume(TESTER, { name: "c", snapshot: first });
  assertEquals((await storage.getVolume("c")).snapshotsMax, undefined);
  await take(test, ["c"]);
});

Deno.test("changeVolume() bounds snapshots below what there are, takes the bound away, and tells both", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const { volumeId } = await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  for (let count = 0; count < 3; count++) await take(test, ["v"]);
  assertEquals((await storage.changeVolume(TESTER, "v", undefined, { snapshotsMax: 2 })).snapshotsMax, 2);
  assertEquals((await storage.getVolume("v")).snapshotsMax, 2);
  assertEquals(await codeOf(take(test, ["v"])), "too-many-snapshots");
  await storage.changeVolume(TESTER, "v", undefined, { snapshotsMax: null });
  assertEquals((await storage.getVolume("v")).snapshotsMax, undefined);
  await take(test, ["v"]);
  const { $client } = test.test.database;
  const told =
    await $client`select body from events where type = 'volume.limited' and volume_id = ${volumeId} order by event_id`;
  assertEquals(told.map(({ body }) => body), [
    { name: "v", snapshotsMax: 2 },
    { name: "v", snapshotsMax: null },
  ]);
  const audited =
    await $client`select target_name from audit where action = 'volume.limit' and target_id = ${volumeId}`;
  assertEquals(audited.map((row) => row.target_name), ["v", "v"]);
});
