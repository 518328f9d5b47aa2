/** Copies into another pool: step by step, by several workers, killed anywhere. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { transact } from "../../src/database/client.ts";
import { StorageError } from "../../src/errors.ts";
import { Appender } from "../../src/storage/appender.ts";
import { Copier } from "../../src/storage/copier.ts";
import { claimCopies, type Copy, CopyLostError, createCopy } from "../../src/storage/copy.ts";
import { stepCopy } from "../../src/storage/copy_step.ts";
import { createId } from "../../src/storage/identifier.ts";
import type { StorageLimits } from "../../src/storage/limits.ts";
import { lockMirror } from "../../src/storage/mirror.ts";
import type { Pool } from "../../src/storage/pool.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { digestOf } from "../support/contents_digest.ts";
import { until } from "../support/door.ts";
import { below, fill, readStamps, seeded } from "../support/history.ts";
import { countTaken, reclaimAll } from "../support/reclaiming.ts";
import {
  BLOCK_BYTES,
  createTestStorage,
  SEGMENT_BLOCKS,
  TESTER,
  type TestStorage,
  write,
} from "../support/storage.ts";

const BLOCKS = 40;
/** A step of few slots, so that a copy has many. */
const STEP = { copyStepBytes: 2 * SEGMENT_BLOCKS * BLOCK_BYTES, progressMs: 0 };
const STEPS_MAX = 10_000;

interface Vault extends TestStorage {
  /** Another worker, as in another process. */
  createCopier(options?: { limits?: Partial<StorageLimits>; onFault?: (error: unknown) => void }): Copier;
  readonly clock: { at: Date };
}

/** Pool `main` with volume `v` and snapshot `s`; and pool `vault`. */
async function createVault(
  { deviceBlocks = 4_000, cacheBytesMax = 2 ** 30, limits = {} }: {
    deviceBlocks?: number;
    cacheBytesMax?: number;
    limits?: Partial<StorageLimits>;
  } = {},
): Promise<Vault> {
  const clock = { at: new Date("2026-01-01T00:00:00Z") };
  const test = await createTestStorage({ clock: () => clock.at, limits: { ...STEP, ...limits } });
  const { storage } = test;
  const shape = { blockSizeBytes: BLOCK_BYTES, segmentBlocks: 2 * SEGMENT_BLOCKS };
  await storage.createPool(TESTER, { name: "vault", ...shape, cacheBytesMax });
  await storage.addDevice(TESTER, { name: "vault-1", pool: "vault", blockCount: deviceBlocks });
  await storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  await storage.append(TESTER, "v", undefined, [write(2, 1, 9), write(20, 50, 12)]);
  await take(test, "s");
  return {
    ...test,
    clock,
    createCopier: (options = {}) => {
      const all = { ...STORAGE_LIMITS, ...STEP, ...limits, ...options.limits };
      const appenders = new Map<string, Appender>();
      const { database } = test.test;
      return new Copier(database, {
        limits: all,
        clock: () => clock.at,
        onFault: options.onFault ?? ((error) => {
          throw error;
        }),
        appenderOf: (pool: Pool) => {
          const known = appenders.get(pool.poolId) ??
            new Appender(database, pool, all, () => clock.at, () => {});
          appenders.set(pool.poolId, known);
          return known;
        },
      });
    },
  };
}

async function take({ storage }: TestStorage, name?: string, volumes = ["v"]): Promise<string> {
  const input = { volumes, ...(name === undefined ? {} : { name }), untilSealed: false, pool: "main" };
  return (await storage.takeSnapshot(TESTER, input, AbortSignal.timeout(1e4))).snapshotId;
}

async function copyOf(
  { storage }: TestStorage,
  snapshot: string,
  more: { volume?: string; name?: string; pool?: string; device?: string } = {},
): Promise<Copy> {
  return await storage.copies.create(TESTER, { snapshot, sourcePool: "main", pool: "vault", ...more });
}

/** Steps until the copy has ended. Answers it, and how many steps went on. */
async function run(vault: Vault, { copyId }: Copy, copier = vault.createCopier()): Promise<Copy> {
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    const copy = await vault.storage.copies.get(copyId);
    if (copy.status !== "running") return copy;
    await copier.sweep();
  }
  throw new Error("The copy does not end");
}

async function copied(
  vault: Vault,
  snapshot: string,
  more: Parameters<typeof copyOf>[2] = {},
): Promise<Copy> {
  const copy = await run(vault, await copyOf(vault, snapshot, more));
  assertEquals([copy.status, copy.failure], ["done", undefined]);
  return copy;
}

async function stampsOf({ storage }: TestStorage, snapshot: string, pool: string): Promise<number[]> {
  const { volumes: [{ volumeBlocks: blockCount }] } = await storage.getSnapshot(snapshot, pool);
  return readStamps(
    await storage.readSnapshot(snapshot, pool, undefined, { lba: 0, blockCount }),
    BLOCK_BYTES,
  );
}

/** Asserts that a copy is its source, block by block. */
async function assertEqual(vault: Vault, copy: Copy): Promise<void> {
  assertEquals(
    await stampsOf(vault, copy.targetSnapshotId as string, "vault"),
    await stampsOf(vault, copy.snapshotId, "main"),
  );
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, StorageError) as StorageError).code;
}

/** The names of the volumes in the vault. */
async function namesThere({ storage }: TestStorage): Promise<string[]> {
  return (await storage.listVolumes("vault", { itemsMax: 9 })).items.map(({ name }) => name);
}

/** Nothing is staged or running any more, and all but `taken` segments of the vault are free. */
async function assertNothingLeft(vault: Vault, taken: number): Promise<void> {
  const { database } = vault.test;
  await vault.drain();
  await reclaimAll(database, vault.clock.at);
  assertEquals(await countTaken(vault, "vault"), taken);
  const [{ stagings, running }] = await database.$client`
    select (select count(*) from stagings) as stagings,
      (select count(*) from copies where status = 'running') as running`;
  assertEquals([stagings, running], [0, 0]);
  await assertSpaceIsSound(database);
}

Deno.test("a copy is its source, block by block, and leaves the names of volume and snapshot unambiguous", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const copy = await copied(vault, "s");
  await assertEqual(vault, copy);
  assertEquals(copy.baseId, undefined);
  assertEquals([copy.bytesCopied, copy.bytesTotal], [21 * BLOCK_BYTES, 21 * BLOCK_BYTES]);
  const there = await storage.getSnapshot("s.main", "vault");
  assertEquals(there.snapshotId, copy.targetSnapshotId);
  const mirror = await storage.getVolume("v.main", "vault");
  assertEquals([mirror.volumeId, mirror.blockCount], [copy.targetVolumeId, BLOCKS]);
  assertEquals((await storage.getVolume("v")).pool.name, "main");
  assertEquals((await storage.getSnapshot("s")).snapshotId, copy.snapshotId);
  await vault.drain();
  await assertEqual(vault, copy);
  assertEquals((await storage.getSnapshot("s.main", "vault")).status, "sealed");
});

Deno.test("the second copy is the difference to the first: written, cleared and grown", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const first = await copied(vault, "s");
  await storage.changeVolume(TESTER, "v", "main", { blockCount: BLOCKS + 9 });
  await storage.append(TESTER, "v", "main", [write(3, 90), { lba: 22, trim: 5 }, write(BLOCKS + 7, 91)]);
  await take(vault, "t");
  const second = await copied(vault, "t");
  assertEquals([second.baseId, second.bytesCopied], [first.snapshotId, 2 * BLOCK_BYTES]);
  assertEquals(second.targetVolumeId, first.targetVolumeId);
  await assertEqual(vault, second);
  await assertEqual(vault, first);
  await take(vault, "u");
  const third = await copied(vault, "u");
  assertEquals([third.baseId, third.bytesCopied], [second.snapshotId, 0]);
  assertEquals(third.digest, second.digest);
  assert(second.digest !== first.digest);
});

Deno.test("a copy is of everything when the last one, its source or its contents are gone, or are of another line", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const isFull = async (name: string) => {
    const copy = await copied(vault, name);
    await assertEqual(vault, copy);
    return copy.baseId === undefined;
  };
  await copied(vault, "s");
  await storage.append(TESTER, "v", "main", [write(0, 70)]);
  await take(vault, "t");
  await storage.append(TESTER, "v.main", "vault", [write(0, 99)]);
  assertEquals(await isFull("t"), true, "the mirror was written");
  assertEquals(await isFull("s"), true, "the last copy is of a later moment");
  await storage.deleteSnapshot(TESTER, "s.main.2", "vault");
  assertEquals(await isFull("t"), true, "the last copy was deleted");
  await storage.append(TESTER, "v", "main", [write(1, 71)]);
  await take(vault, "u");
  await vault.drain();
  await storage.deleteSnapshot(TESTER, "t", "main");
  await reclaimAll(vault.test.database);
  assertEquals(await isFull("u"), true, "the last copy's source was deleted");
  await take(vault, "w");
  assertEquals(await isFull("w"), false);
  await storage.deleteVolume(TESTER, "v.main", "vault");
  assertEquals(await isFull("w"), true, "the mirror was deleted");
  await storage.revertVolume(TESTER, "v", "main", "s");
  await take(vault, "x");
  assertEquals(await isFull("x"), true, "the volume was reverted");
});

Deno.test("a copy's name is its source's with its pool's, a number where that is taken, and none where it has none", async () => {
  await using vault = await createVault();
  const nameOf = async (copy: Copy) =>
    (await vault.storage.getSnapshot(copy.targetSnapshotId as string, "vault")).name;
  for (const expected of ["s.main", "s.main.2", "s.main.3"]) {
    assertEquals(await nameOf(await copied(vault, "s")), expected);
  }
  assertEquals(await nameOf(await copied(vault, await take(vault))), undefined);
  await take(vault, "n".repeat(63));
  for (const expected of [`${"n".repeat(58)}.main`, `${"n".repeat(58)}.ma.2`]) {
    assertEquals(await nameOf(await copied(vault, "n".repeat(63))), expected);
  }
});

Deno.test("a mirror's name is its volume's with its pool's, cut, and with a number where that is taken", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const long = "p".repeat(63);
  const shape = { blockSizeBytes: BLOCK_BYTES, segmentBlocks: SEGMENT_BLOCKS, cacheBytesMax: 2 ** 20 };
  await storage.createPool(TESTER, { name: long, ...shape });
  await storage.createVolume(TESTER, { name: "v".repeat(63), pool: "main", blockCount: 8 });
  await storage.createVolume(TESTER, { name: "w".repeat(63), pool: long, blockCount: 8 });
  await take(vault, "of-v", ["v".repeat(63)]);
  const ofW = { volumes: ["w".repeat(63)], pool: long, name: "s", untilSealed: false };
  await storage.takeSnapshot(TESTER, ofW, AbortSignal.timeout(1e4));
  const mirrorOf = async (snapshot: string, sourcePool: string) => {
    const input = { snapshot, sourcePool, pool: "vault" };
    const { targetVolumeId } = await storage.copies.create(TESTER, input);
    return (await storage.getVolume(targetVolumeId)).name;
  };
  await storage.createVolume(TESTER, { name: "v.main", pool: "vault", blockCount: 1 });
  assertEquals(await mirrorOf("s", "main"), "v.main.2");
  assertEquals(await mirrorOf("of-v", "main"), `${"v".repeat(58)}.main`);
  assertEquals(await mirrorOf("s", long), `${"w".repeat(31)}.${"p".repeat(31)}`);
});

Deno.test("two that ask for the first copy at once have one mirror", async () => {
  await using vault = await createVault();
  await take(vault, "t");
  const asked = await Promise.allSettled(["s", "t"].map((snapshot) => copyOf(vault, snapshot)));
  const refused = asked.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
  assertEquals(refused.map(({ reason }) => reason.code), ["in-use"]);
  assertEquals(await namesThere(vault), ["v.main"]);
});

Deno.test("copies are kept in the volume that is for them, never in another that has the name", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  await storage.createVolume(TESTER, { name: "v", pool: "vault", blockCount: 1 });
  assertEquals(await codeOf(copyOf(vault, "s", { name: "v" })), "name-taken");
  const copy = await copied(vault, "s", { name: "copies-of-v" });
  assertEquals((await storage.getVolume("copies-of-v", "vault")).volumeId, copy.targetVolumeId);
  assertEquals((await copied(vault, "s")).targetVolumeId, copy.targetVolumeId);
  await storage.createVolume(TESTER, { name: "w", pool: "main", blockCount: 8 });
  await take(vault, "both", ["v", "w"]);
  assertEquals(await codeOf(copyOf(vault, "both")), "invalid-argument");
  assertEquals(await codeOf(copyOf(vault, "both", { volume: "w", name: "copies-of-v" })), "name-taken");
  const other = await copied(vault, "both", { volume: "w" });
  assertEquals((await storage.getVolume("w.main", "vault")).volumeId, other.targetVolumeId);
  const own = await copied(vault, "s", { name: "more-of-v" });
  assertEquals((await copied(vault, "s", { name: "more-of-v" })).targetVolumeId, own.targetVolumeId);
});

Deno.test("a copy is refused into its own pool, one of other blocks, of a part, and twice into one volume at once", async () => {
  await using vault = await createVault({ limits: { copiesMax: 2 } });
  const { storage } = vault;
  const shape = { blockSizeBytes: 1024, segmentBlocks: 4, cacheBytesMax: 2 ** 20 };
  await storage.createPool(TESTER, { name: "large", ...shape });
  await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], pool: "main", name: "part", lba: 0, blockCount: 4, untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  assertEquals(await codeOf(copyOf(vault, "s", { pool: "main" })), "invalid-argument");
  assertEquals(await codeOf(copyOf(vault, "s", { pool: "large" })), "invalid-argument");
  assertEquals(await codeOf(copyOf(vault, "s", { pool: "no" })), "pool-not-found");
  assertEquals(await codeOf(copyOf(vault, "no")), "snapshot-not-found");
  assertEquals(await codeOf(copyOf(vault, "part")), "outside-snapshot");
  const first = await copyOf(vault, "s");
  assertEquals(await codeOf(copyOf(vault, "s")), "in-use");
  const second = await copyOf(vault, "s", { name: "second" });
  assertEquals(await codeOf(copyOf(vault, "s", { name: "third" })), "too-busy");
  const copier = vault.createCopier();
  for (const copy of [first, second]) await assertEqual(vault, await run(vault, copy, copier));
  assertEquals((await copyOf(vault, "s")).status, "running");
});

Deno.test("a copy that is killed between any two steps is taken up by another worker, with the same outcome", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  for (const snapshot of ["s", "t"]) {
    const copy = await copyOf(vault, snapshot);
    let workers = 0;
    // Each worker is killed behind its first step; the next has to wait for the lease.
    for (; (await storage.copies.get(copy.copyId)).status === "running"; workers++) {
      await vault.createCopier().sweep();
      assertEquals(await vault.createCopier().sweep(), false, "the lease is not over");
      vault.clock.at = new Date(vault.clock.at.getTime() + STORAGE_LIMITS.copyLeaseMs);
    }
    assert(workers > 12, `${workers} workers`);
    const done = await storage.copies.get(copy.copyId);
    assertEquals([done.status, done.baseId !== undefined], ["done", snapshot === "t"]);
    assertEquals(done.bytesCopied, done.bytesTotal);
    await assertEqual(vault, done);
    const undisturbed = await copied(vault, snapshot, { name: `undisturbed-${snapshot}` });
    assertEquals(undisturbed.digest, done.digest);
    await storage.append(TESTER, "v", "main", [{ lba: 0, trim: BLOCKS }, write(1, 7, 30)]);
    if (snapshot === "s") await take(vault, "t");
  }
  await vault.drain();
  for (const { volumeId } of (await storage.listVolumes("vault", { itemsMax: 9 })).items) {
    await storage.deleteVolume(TESTER, volumeId);
  }
  for (const { snapshotId } of (await storage.listSnapshots({ pool: "vault" }, { itemsMax: 9 })).items) {
    await storage.deleteSnapshot(TESTER, snapshotId);
  }
  await assertNothingLeft(vault, 0);
});

Deno.test("a copy's digest is what README describes, whatever the steps, the segments and the blocks of zeros", async () => {
  await using vault = await createVault({ limits: { copyStepBytes: 300 * 1024 } });
  const { storage } = vault;
  const blockCount = 7_000;
  await storage.createVolume(TESTER, { name: "big", pool: "main", blockCount });
  const contents = new Uint8Array(blockCount * BLOCK_BYTES);
  // Across two pieces; with zeros in one of its own; at the end.
  for (const [lba, stamp, count] of [[1_500, 1, 900], [4_200, 0, 50], [6_990, 5_000, 10]]) {
    const data = fill(stamp, count, BLOCK_BYTES);
    if (stamp === 0) data.fill(0);
    contents.set(data, lba * BLOCK_BYTES);
    await storage.append(TESTER, "big", "main", [{ lba, data }]);
  }
  await take(vault, "big", ["big"]);
  const copy = await copied(vault, "big");
  assertEquals(copy.digest, digestOf(contents));
  await assertEqualBytes(vault, copy, contents);
  await storage.append(TESTER, "big", "main", [{ lba: 1_600, trim: 1_000 }]);
  contents.fill(0, 1_600 * BLOCK_BYTES, 2_600 * BLOCK_BYTES);
  await take(vault, "bigger", ["big"]);
  const second = await copied(vault, "bigger");
  assertEquals([second.digest, second.bytesCopied], [digestOf(contents), 0]);
  await assertEqualBytes(vault, second, contents);
});

async function assertEqualBytes(
  { storage }: Vault,
  { targetSnapshotId }: Copy,
  contents: Uint8Array,
): Promise<void> {
  const range = { lba: 0, blockCount: contents.length / BLOCK_BYTES };
  assertEquals(
    await storage.readSnapshot(targetSnapshotId as string, "vault", undefined, range),
    contents as Uint8Array<ArrayBuffer>,
  );
}

Deno.test("a step that was done but not recorded is done again, with the same outcome", async () => {
  await using vault = await createVault();
  const { database } = vault.test;
  const copy = await copyOf(vault, "s");
  const copier = vault.createCopier();
  for (let step = 0; step < STEPS_MAX; step++) {
    const [row] = await database.$client`select * from copies where copy_id = ${copy.copyId}`;
    if (row.status !== "running") break;
    await copier.sweep();
    // As if it had been killed just before.
    if (!["copying", "digesting", "verifying"].includes(row.phase)) continue;
    await database.$client`
      update copies set position = ${row.position}, phase = ${row.phase}, bytes_copied = ${row.bytes_copied},
        source_chain = ${row.source_chain}, target_chain = ${row.target_chain}, digest = null
      where copy_id = ${copy.copyId} and status = 'running'`;
    await copier.sweep();
  }
  const done = await vault.storage.copies.get(copy.copyId);
  assertEquals([done.status, done.bytesCopied], ["done", 21 * BLOCK_BYTES]);
  await assertEqual(vault, done);
});

Deno.test("a worker that ends a step after another has taken its copy changes nothing, in any phase", async () => {
  await using vault = await createVault();
  const { test: { database }, storage, clock } = vault;
  const copy = await copyOf(vault, "s");
  const row = async () => (await database.$client`select * from copies where copy_id = ${copy.copyId}`)[0];
  const lease = () => new Date(clock.at.getTime() + STORAGE_LIMITS.copyLeaseMs);
  const phases = new Set<string>();
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    const workerId = crypto.randomUUID();
    const [slow] = await claimCopies(database, workerId, clock.at, STORAGE_LIMITS.copyLeaseMs);
    if (slow === undefined) break;
    clock.at = lease();
    await vault.createCopier().sweep();
    const before = await row();
    const step = stepCopy({
      database,
      workerId,
      limits: { ...STORAGE_LIMITS, ...STEP },
      clock: () => clock.at,
      appenderOf: (pool) => new Appender(database, pool, STORAGE_LIMITS, () => clock.at, () => {}),
    }, slow);
    // What was staged may be the mirror's by then.
    const error = await step.then(() => undefined, (error) => error);
    assert(error instanceof CopyLostError || error instanceof StorageError, `${slow.phase}: ${error}`);
    assertEquals(await row(), before);
    phases.add(slow.phase);
    clock.at = lease();
  }
  assertEquals(phases.size, 7);
  const done = await storage.copies.get(copy.copyId);
  assertEquals(done.status, "done");
  await assertEqual(vault, done);
  await storage.deleteVolume(TESTER, "v.main", "vault");
  await vault.drain();
  await storage.deleteSnapshot(TESTER, "s.main", "vault");
  await assertNothingLeft(vault, 0);
});

Deno.test("a worker that is stopped leaves its copies to others at once", async () => {
  await using vault = await createVault();
  const copy = await copyOf(vault, "s");
  const first = vault.createCopier();
  await first.sweep();
  await first.stop();
  assertEquals((await run(vault, copy)).status, "done");
});

Deno.test("a copy fails when its mirror is written meanwhile: the write stays, the space comes back", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  for (const base of [false, true]) {
    if (base) {
      await storage.deleteVolume(TESTER, "v.main", "vault");
      await copied(vault, "s");
    }
    const copy = await copyOf(vault, base ? await take(vault, "t") : "s");
    const copier = vault.createCopier();
    while ((await storage.copies.get(copy.copyId)).phase !== "verifying") await copier.sweep();
    await storage.append(TESTER, "v.main", "vault", [write(5, 77)]);
    const failed = await run(vault, copy, copier);
    assertEquals([failed.status, failed.failure?.code], ["failed", "volume-changed"]);
    const range = { lba: 5, blockCount: 1 };
    assertEquals(readStamps(await storage.readVolume("v.main", "vault", range), BLOCK_BYTES), [77]);
    await assertNothingLeft(vault, base ? 5 : 1);
  }
});

Deno.test("a copy fails when its mirror is deleted meanwhile, or the pool is out of space, which comes back", async () => {
  await using vault = await createVault({ deviceBlocks: 16 });
  const { storage } = vault;
  const full = await run(vault, await copyOf(vault, "s"));
  assertEquals([full.status, full.failure?.code], ["failed", "insufficient-space"]);
  assertEquals(await namesThere(vault), []);
  await assertNothingLeft(vault, 0);
  await storage.addDevice(TESTER, { name: "more", pool: "vault", blockCount: 400 });
  const copy = await copyOf(vault, "s");
  const copier = vault.createCopier();
  while ((await storage.copies.get(copy.copyId)).phase !== "verifying") await copier.sweep();
  await storage.deleteVolume(TESTER, "v.main", "vault");
  const failed = await run(vault, copy, copier);
  assertEquals([failed.status, failed.failure?.code], ["failed", "volume-not-found"]);
  await assertNothingLeft(vault, 0);
});

Deno.test("a copy whose contents are not its source's fails, and is never to be seen", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const copy = await copyOf(vault, "s");
  const copier = vault.createCopier();
  while ((await storage.copies.get(copy.copyId)).phase !== "verifying") await copier.sweep();
  await vault.drain();
  const { poolId } = await storage.getPool("vault");
  await vault.test.database.$client`
    update blocks set data = ${fill(4, 1, BLOCK_BYTES)}, checksum = null
    where pool_id = ${poolId} and block_index = 3`;
  const failed = await run(vault, copy, copier);
  assertEquals([failed.status, failed.failure?.code], ["failed", "contents-differ"]);
  assertEquals((await storage.listSnapshots({ pool: "vault" }, { itemsMax: 9 })).items, []);
  await assertNothingLeft(vault, 0);
});

Deno.test("a snapshot that is copied, or compared with, cannot be deleted, and a hold is told before that", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  await copied(vault, "s");
  await storage.append(TESTER, "v", "main", [write(0, 9)]);
  await take(vault, "t");
  const copy = await copyOf(vault, "t");
  const copier = vault.createCopier();
  assertEquals(await codeOf(storage.deleteSnapshot(TESTER, "t", "main")), "in-use");
  await copier.sweep();
  for (const name of ["s", "t"]) {
    assertEquals(await codeOf(storage.deleteSnapshot(TESTER, name, "main")), "in-use");
  }
  const until = new Date(vault.clock.at.getTime() + 1);
  await storage.holdSnapshot(TESTER, "s", "main", { until, reason: "" });
  assertEquals(await codeOf(storage.deleteSnapshot(TESTER, "s", "main")), "held");
  assertEquals((await run(vault, copy, copier)).status, "done");
  vault.clock.at = until;
  for (const name of ["s", "t"]) await storage.deleteSnapshot(TESTER, name, "main");
  assertEquals((await storage.copies.get(copy.copyId)).status, "done");
});

Deno.test("a copy goes on when the last copy, which it is based on, is deleted meanwhile", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  await copied(vault, "s");
  await storage.append(TESTER, "v", "main", [write(3, 90), { lba: 22, trim: 5 }]);
  const copy = await copyOf(vault, await take(vault, "t"));
  const copier = vault.createCopier();
  while ((await storage.copies.get(copy.copyId)).phase !== "copying") await copier.sweep();
  await vault.drain();
  await storage.deleteSnapshot(TESTER, "s.main", "vault");
  await reclaimAll(vault.test.database);
  const done = await run(vault, copy, copier);
  assertEquals([done.status, done.bytesCopied], ["done", BLOCK_BYTES]);
  await assertEqual(vault, done);
  await reclaimAll(vault.test.database);
  await assertEqual(vault, done);
});

Deno.test("a copy can be cancelled in any phase, and gives its space back; one that has ended stays as it is", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const phases = new Set<string>();
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    const { copyId } = await copyOf(vault, "s");
    const copier = vault.createCopier();
    for (let step = 0; step < steps; step++) await copier.sweep();
    const { phase, status } = await storage.copies.get(copyId);
    if (status === "done") break;
    phases.add(phase);
    const cancelled = await storage.copies.cancel(TESTER, copyId);
    assertEquals(cancelled.status, phase === "telling" ? "running" : "cancelled");
    if (phase === "telling") {
      await copier.sweep();
      assertEquals((await storage.copies.cancel(TESTER, copyId)).status, "done");
      break;
    }
    assertEquals([await copier.sweep(), await namesThere(vault)], [false, []]);
    await assertNothingLeft(vault, 0);
  }
  assertEquals([phases.size, await namesThere(vault)], [7, ["v.main"]]);
});

Deno.test("a mirror that was given nothing goes with its copy, which is told in both pools", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const copy = await copyOf(vault, "s");
  await storage.copies.cancel(TESTER, copy.copyId);
  const [deleted] = (await storage.listEvents(copy.targetPoolId, {}, 0, 100)).toReversed();
  assertEquals([deleted.type, deleted.volumeId], ["volume.deleted", copy.targetVolumeId]);
  const [cancelled] = (await storage.listEvents(copy.poolId, {}, 0, 100)).toReversed();
  assertEquals([cancelled.type, cancelled.body], ["copy.cancelled", { copyId: copy.copyId }]);
  const { items } = await storage.listAudit({ itemsMax: 100 });
  const done = items.filter(({ action }) => ["copy.cancel", "volume.delete"].includes(action));
  assertEquals(done.map(({ clientName }) => clientName), ["tester", "tester"]);
  const [{ mirrors }] = await vault.test.database.$client`select count(*) as mirrors from mirrors`;
  assertEquals(mirrors, 0);
});

Deno.test("a mirror that holds anything stays when a copy into it comes to nothing", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const isKept = async (what: string, make: (mirror: string) => Promise<unknown>) => {
    const { copyId, targetVolumeId } = await copyOf(vault, "s", { name: what });
    await make(targetVolumeId);
    await storage.copies.cancel(TESTER, copyId);
    assertEquals((await storage.getVolume(what, "vault")).volumeId, targetVolumeId);
  };
  const snapshotOf = (mirror: string, name: string) =>
    storage.takeSnapshot(TESTER, { volumes: [mirror], name, untilSealed: false }, AbortSignal.timeout(1e4));
  await isKept("written", (mirror) => storage.append(TESTER, mirror, undefined, [write(0, 1)]));
  await isKept("covered", (mirror) => snapshotOf(mirror, "of-nothing"));
  await isKept("reverted", async (mirror) => {
    await storage.append(TESTER, mirror, undefined, [write(0, 1)]);
    await snapshotOf(mirror, "of-one");
    await vault.drain();
    await storage.revertVolume(TESTER, mirror, undefined, "of-one");
    await storage.deleteSnapshot(TESTER, "of-one", undefined);
  });
  await copied(vault, "s", { name: "copied" });
  await isKept("copied", async () => {});
  const [empty, full] = [await copyOf(vault, "s", { name: "empty" }), await storage.getVolume("copied")];
  assertEquals(empty.targetVolumeId === full.volumeId, false);
  await storage.copies.cancel(TESTER, empty.copyId);
  assertEquals((await namesThere(vault)).toSorted(), ["copied", "covered", "reverted", "written"]);
});

Deno.test("a copy that is asked for while the last one is cancelled is refused, or has a mirror to go into", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const first = await copyOf(vault, "s");
  await storage.copies.cancel(TESTER, first.copyId);
  const { volumeId, targetPoolId, targetVolumeId } = first;
  const late = { snapshot: await storage.getSnapshot("s", "main"), volumeId, targetPoolId, targetVolumeId };
  const created = createCopy(vault.test.database, TESTER, late, STORAGE_LIMITS, vault.clock.at);
  assertEquals(await codeOf(created), "in-use");
  for (let round = 0; round < 20; round++) {
    const { copyId } = await copyOf(vault, "s");
    const [, asked] = await Promise.allSettled([storage.copies.cancel(TESTER, copyId), copyOf(vault, "s")]);
    if (asked.status === "rejected") assertEquals(asked.reason.code, "in-use");
    else {
      const { name } = await storage.getVolume(asked.value.targetVolumeId);
      assertEquals(name, "v.main");
      await storage.copies.cancel(TESTER, asked.value.copyId);
    }
    assertEquals(await namesThere(vault), []);
  }
});

Deno.test("a mirror stays when a copy into it is asked for while the last one is being cancelled", async () => {
  await using vault = await createVault();
  const { test: { database }, storage } = vault;
  const { copyId, targetPoolId, targetVolumeId } = await copyOf(vault, "s");
  let cancelled = false;
  const cancelling = transact(database, async (tx) => {
    assertEquals(await lockMirror(tx, targetPoolId, targetVolumeId), true);
    await tx.$client`
      insert into copies select (jsonb_populate_record(c, jsonb_build_object('copy_id', ${createId()}::text))).*
      from copies c where copy_id = ${copyId}`;
    const cancelling = storage.copies.cancel(TESTER, copyId).then(() => cancelled = true);
    await until(async () => {
      const [{ waiting }] = await database.$client`
        select count(*) as waiting from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`;
      return cancelled || waiting > 0;
    });
    return { cancelling };
  });
  await (await cancelling).cancelling;
  assertEquals((await storage.copies.get(copyId)).status, "cancelled");
  assertEquals(await namesThere(vault), ["v.main"]);
});

Deno.test("copies in opposite directions that are cancelled at once do not wait for each other", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  await storage.createVolume(TESTER, { name: "w", pool: "vault", blockCount: 8 });
  const ofW = { volumes: ["w"], pool: "vault", name: "back", untilSealed: false };
  await storage.takeSnapshot(TESTER, ofW, AbortSignal.timeout(1e4));
  for (let round = 0; round < 20; round++) {
    const there = await copyOf(vault, "s");
    const back = await storage.copies.create(TESTER, { snapshot: "back", sourcePool: "vault", pool: "main" });
    await Promise.all([there, back].map(({ copyId }) => storage.copies.cancel(TESTER, copyId)));
  }
  assertEquals(await namesThere(vault), ["w"]);
});

Deno.test("a copy into a pool whose cache is full waits for the flusher, and goes on", async () => {
  await using vault = await createVault({ cacheBytesMax: 4 * BLOCK_BYTES });
  const copy = await copyOf(vault, "s");
  const copier = vault.createCopier();
  let waits = 0;
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    if ((await vault.storage.copies.get(copy.copyId)).status !== "running") break;
    if (await copier.sweep()) continue;
    waits += 1;
    await vault.drain();
  }
  const done = await vault.storage.copies.get(copy.copyId);
  assertEquals([done.status, waits > 2, done.bytesCopied], ["done", true, 21 * BLOCK_BYTES]);
  await assertEqual(vault, done);
});

Deno.test("a copy tells of itself in its source's pool, and in the other pool of what the mirror was given", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  const { poolId } = await storage.getPool("main");
  const copy = await copied(vault, "s");
  const filter = { snapshotId: copy.snapshotId };
  const events = (await storage.listEvents(poolId, filter, 0, 100)).filter(({ type }) =>
    type.startsWith("copy.")
  );
  const types = events.map(({ type }) => type);
  assertEquals([types[0], types.at(-1)], ["copy.created", "copy.done"]);
  assertEquals(new Set(types.slice(1, -1)), new Set(["copy.progress"]));
  const { copyId, targetSnapshotId, bytesCopied, digest } = copy;
  assertEquals(events.at(-1)?.body, { copyId, targetSnapshotId, bytesCopied, digest });
  const there = await storage.listEvents(copy.targetPoolId, {}, 0, 100);
  assertEquals(there.map(({ type }) => type), [
    "pool.created",
    "device.added",
    "volume.created",
    "marker.committed",
    "volume.imported",
  ]);
  const { items } = await storage.listAudit({ itemsMax: 100 });
  assertEquals(items.slice(-4).map(({ action }) => action).toSorted(), [
    "copy.create",
    "snapshot.create",
    "volume.create",
    "volume.import",
  ]);
});

Deno.test("progress of a copy is told no more often than that", async () => {
  await using vault = await createVault({ limits: { progressMs: 1_000 } });
  const { storage } = vault;
  const copy = await copyOf(vault, "s");
  const copier = vault.createCopier();
  let steps = 0;
  for (; (await storage.copies.get(copy.copyId)).status === "running"; steps++) {
    vault.clock.at = new Date(vault.clock.at.getTime() + 300);
    await copier.sweep();
  }
  const { poolId } = await storage.getPool("main");
  const told = await storage.listEvents(poolId, { types: ["copy.progress"] }, 0, 100);
  assert(told.length > 1 && told.length <= steps / 4 + 1, `${told.length} in ${steps} steps`);
});

Deno.test("random histories copied again and again are equal, whoever copies", async () => {
  const random = seeded(3);
  await using vault = await createVault();
  const { storage } = vault;
  const workers = [vault.createCopier(), vault.createCopier(), vault.createCopier()];
  let incremental = 0;
  for (let round = 0; round < 12; round++) {
    for (let writes = below(random, 5); writes > 0; writes--) {
      const lba = below(random, BLOCKS - 8);
      const count = 1 + below(random, 8);
      const part = below(random, 3) === 0 ? { lba, trim: count } : write(lba, 1 + 100 * round, count);
      await storage.append(TESTER, "v", "main", [part]);
    }
    await take(vault, `r${round}`);
    if (below(random, 5) === 0) {
      await storage.revertVolume(TESTER, "v", "main", `r${below(random, round + 1)}`);
    }
    const copy = await copyOf(vault, `r${below(random, 2) === 0 ? round : below(random, round + 1)}`);
    while ((await storage.copies.get(copy.copyId)).status === "running") {
      await workers[below(random, workers.length)].sweep();
      if (below(random, 4) === 0) await vault.drain();
      vault.clock.at = new Date(vault.clock.at.getTime() + STORAGE_LIMITS.copyLeaseMs);
    }
    const done = await storage.copies.get(copy.copyId);
    assertEquals(done.failure, undefined);
    await assertEqual(vault, done);
    if (done.baseId !== undefined) incremental += 1;
    await reclaimAll(vault.test.database);
  }
  assert(incremental > 2, `${incremental} were incremental`);
  await vault.drain();
  await assertSpaceIsSound(vault.test.database);
});

/** How many segments of each device of the vault are mapped. */
async function countMapped({ test: { database } }: TestStorage): Promise<Record<string, number>> {
  const rows = await database.$client<{ name: string; mapped: number }[]>`
    select d.name, (
      select count(*) from segment_map m where m.pool_id = d.pool_id and m.device_id = d.device_id
    ) as mapped
    from devices d join pools p on p.pool_id = d.pool_id where p.name = 'vault' order by d.name`;
  return Object.fromEntries(rows.map(({ name, mapped }) => [name, mapped]));
}

Deno.test("a copy for a device takes its segments from that, whatever else is written in the pool meanwhile", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  await storage.addDevice(TESTER, { name: "vault-2", pool: "vault", blockCount: 400 });
  await storage.createVolume(TESTER, { name: "busy", pool: "vault", blockCount: 4_000 });
  const copy = await copyOf(vault, "s", { device: "vault-2" });
  const copier = vault.createCopier();
  let lba = 0;
  for (; (await storage.copies.get(copy.copyId)).status === "running"; lba += 3) {
    // At once, so that both take segments in one batch now and then.
    await Promise.all([
      copier.sweep(),
      storage.append(TESTER, "busy", "vault", [{ lba, data: fill(lba + 1, 3, BLOCK_BYTES) }]),
    ]);
    if (lba > 3_000) throw new Error("The copy does not end");
  }
  const done = await storage.copies.get(copy.copyId);
  assertEquals([done.status, done.deviceId], [
    "done",
    (await storage.getDevice("vault-2", "vault")).deviceId,
  ]);
  await assertEqual(vault, done);
  const taken = await countTaken(vault, "vault");
  const mapped = await countMapped(vault);
  assertEquals(mapped["vault-1"], Math.ceil(lba / (2 * SEGMENT_BLOCKS)));
  assertEquals(mapped["vault-2"], taken - mapped["vault-1"]);
  await assertSpaceIsSound(vault.test.database);
});

Deno.test("a copy for a device that is too small fails, however much room there is on others", async () => {
  await using vault = await createVault();
  const { storage } = vault;
  await storage.addDevice(TESTER, { name: "small", pool: "vault", blockCount: 2 * SEGMENT_BLOCKS });
  const copy = await run(vault, await copyOf(vault, "s", { device: "small" }));
  assertEquals([copy.status, copy.failure?.code], ["failed", "insufficient-space"]);
  await assertNothingLeft(vault, 0);
});

Deno.test("a copy whose lease was taken by a clock that has been set back since is free, and one a little ahead is not", async () => {
  await using vault = await createVault();
  const { test: { database }, clock } = vault;
  await copyOf(vault, "s");
  const claim = async (ms: number) => {
    const at = new Date(clock.at.getTime() + ms);
    return (await claimCopies(database, crypto.randomUUID(), at, STORAGE_LIMITS.copyLeaseMs)).length;
  };
  assertEquals(await claim(3_600_000), 1);
  assertEquals(await claim(0), 1);
  assertEquals(await claim(-1_000), 0);
});
