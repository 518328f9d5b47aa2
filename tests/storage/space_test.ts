import { assertEquals } from "@std/assert";
import { transact } from "../../src/database/client.ts";
import { reclaimStep } from "../../src/storage/reclaim.ts";
import { SpaceCounter } from "../../src/storage/space_counter.ts";
import { fill } from "../support/history.ts";
import {
  BLOCK_BYTES,
  createTestStorage,
  SEGMENT_BLOCKS,
  TESTER,
  type TestStorage,
} from "../support/storage.ts";

const SEGMENT_BYTES = SEGMENT_BLOCKS * BLOCK_BYTES;
const at = new Date("2026-01-01T00:00:00Z");

async function writeSlots(
  { storage }: TestStorage,
  volume: string,
  first: number,
  count: number,
): Promise<void> {
  const data = fill(1, count * SEGMENT_BLOCKS, BLOCK_BYTES);
  await storage.append(TESTER, volume, undefined, [{ lba: first * SEGMENT_BLOCKS, data }]);
}

async function take({ storage }: TestStorage, name: string, volume = "v"): Promise<void> {
  await storage.takeSnapshot(
    TESTER,
    { volumes: [volume], name, untilSealed: false },
    AbortSignal.timeout(1e4),
  );
}

/** Reclaims and counts until nothing is left to do. */
async function settle(test: TestStorage): Promise<void> {
  const { test: { database }, storage } = test;
  const { poolId } = await storage.getPool("main");
  await test.drain();
  while (!(await transact(database, (tx) => reclaimStep(tx, poolId, at))).idle);
  const options = { pollMs: 1, clock: () => at, onFault: (error: unknown) => console.error(error) };
  const counter = new SpaceCounter(database, options);
  while (await counter.sweep());
}

/** Unique and shared segments. */
async function spaceOf({ storage }: TestStorage, name: string): Promise<(number | undefined)[]> {
  const { space } = await storage.getSnapshot(name);
  return [space?.uniqueBytes, space?.sharedBytes].map((bytes) =>
    bytes === undefined ? bytes : bytes / SEGMENT_BYTES
  );
}

Deno.test("a snapshot's space: what was overwritten behind it is its own, what others read too is shared", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await writeSlots(test, "v", 0, 10);
  await take(test, "a");
  assertEquals(await spaceOf(test, "a"), [0, 10]);
  await writeSlots(test, "v", 0, 4);
  await settle(test);
  assertEquals(await spaceOf(test, "a"), [4, 6]);
  await take(test, "b");
  await writeSlots(test, "v", 2, 4);
  await settle(test);
  // a has four that b and the volume read anew; of b's, slots 2 and 3 are overwritten, and 4 and 5 are a's too.
  assertEquals([await spaceOf(test, "a"), await spaceOf(test, "b")], [[4, 6], [2, 12]]);
  await test.storage.deleteSnapshot(TESTER, "a");
  await settle(test);
  assertEquals(await spaceOf(test, "b"), [4, 6]);
  assertEquals((await test.storage.getSnapshot("b")).space?.countedAt, at);
});

Deno.test("a snapshot that was cloned holds nothing alone, until the clone is gone", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await writeSlots(test, "v", 0, 10);
  await take(test, "a");
  await writeSlots(test, "v", 0, 10);
  await settle(test);
  assertEquals(await spaceOf(test, "a"), [10, 0]);
  await test.storage.cloneVolume(TESTER, { name: "c", snapshot: "a" });
  await settle(test);
  assertEquals(await spaceOf(test, "a"), [0, 10]);
  await take(test, "of-the-clone", "c");
  await test.storage.deleteVolume(TESTER, "c");
  await test.storage.deleteSnapshot(TESTER, "a");
  await settle(test);
  // It is the only reader left of the clone's timeline, which alone still reads the old blocks.
  assertEquals(await spaceOf(test, "of-the-clone"), [10, 0]);
});

Deno.test("a snapshot that a volume was reverted to holds alone what is overwritten since and nobody else reads", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await writeSlots(test, "v", 0, 10);
  await take(test, "a");
  await storage.revertVolume(TESTER, "v", undefined, "a");
  await settle(test);
  assertEquals(await spaceOf(test, "a"), [0, 10]);
  await writeSlots(test, "v", 0, 4);
  await settle(test);
  assertEquals(await spaceOf(test, "a"), [4, 6]);
  await take(test, "b");
  await writeSlots(test, "v", 4, 2);
  await settle(test);
  // The two that were overwritten last are read by b.
  assertEquals(await spaceOf(test, "a"), [4, 6]);
  await storage.deleteSnapshot(TESTER, "b");
  await settle(test);
  assertEquals(await spaceOf(test, "a"), [6, 4]);
  const before = (await storage.getPool("main")).mappedBytes;
  await storage.deleteSnapshot(TESTER, "a");
  await settle(test);
  assertEquals(before - (await storage.getPool("main")).mappedBytes, 6 * SEGMENT_BYTES);
});

Deno.test("a snapshot that alone reads a clone and a clone of that is counted anew when what they start from loses a reader", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 16 });
  await writeSlots(test, "v", 0, 4);
  await take(test, "a");
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "a" });
  await writeSlots(test, "v", 0, 4);
  await take(test, "b", "c");
  await storage.cloneVolume(TESTER, { name: "d", snapshot: "b" });
  await storage.deleteSnapshot(TESTER, "b");
  const both = { volumes: ["c", "d"], name: "both", untilSealed: false };
  await storage.takeSnapshot(TESTER, both, AbortSignal.timeout(1e4));
  for (const name of ["c", "d"]) await storage.deleteVolume(TESTER, name);
  await settle(test);
  assertEquals((await spaceOf(test, "both"))[0], 0);
  await storage.deleteSnapshot(TESTER, "a");
  await settle(test);
  assertEquals((await spaceOf(test, "both"))[0], 4);
});

Deno.test("a snapshot of many clones is counted anew when the only other clone of the same has overwritten what they start from", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 16 });
  await writeSlots(test, "v", 0, 4);
  await take(test, "a");
  const clones = Array.from({ length: 20 }, (_, index) => `clone-${index}`);
  for (const name of ["kept", ...clones]) await storage.cloneVolume(TESTER, { name, snapshot: "a" });
  await storage.takeSnapshot(
    TESTER,
    { volumes: clones, name: "many", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  for (const name of ["v", ...clones]) await storage.deleteVolume(TESTER, name);
  await storage.deleteSnapshot(TESTER, "a");
  await settle(test);
  assertEquals((await spaceOf(test, "many"))[0], 0);
  await writeSlots(test, "kept", 0, 3);
  await settle(test);
  assertEquals((await spaceOf(test, "many"))[0], 3);
});

Deno.test("a volume's mapped bytes are those of all its timelines, and the pool's are those of all volumes", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const mapped = async (name: string) => (await storage.getVolume(name)).mappedSegments;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await writeSlots(test, "v", 0, 3);
  await take(test, "a");
  await writeSlots(test, "v", 0, 2);
  assertEquals(await mapped("v"), 5);
  await storage.revertVolume(TESTER, "v", undefined, "a", { name: "safe" });
  await writeSlots(test, "v", 7, 1);
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "a" });
  await writeSlots(test, "c", 0, 1);
  await settle(test);
  assertEquals([await mapped("v"), await mapped("c")], [6, 1]);
  assertEquals((await storage.getPool("main")).mappedBytes, 7 * SEGMENT_BYTES);
  await storage.deleteSnapshot(TESTER, "safe");
  await settle(test);
  assertEquals(await mapped("v"), 4);
  assertEquals(
    (await storage.listVolumes(undefined, { itemsMax: 9 })).items.map((one) => one.mappedSegments),
    [4, 1],
  );
});

Deno.test("a snapshot that is cancelled or deleted has no space", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await writeSlots(test, "v", 0, 1);
  await take(test, "a");
  const { snapshotId } = await test.storage.getSnapshot("a");
  await test.storage.deleteSnapshot(TESTER, "a");
  assertEquals((await test.storage.getSnapshot(snapshotId)).space, undefined);
});
