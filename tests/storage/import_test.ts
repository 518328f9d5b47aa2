/** Imports: staged, then taken as a whole or not at all. */

import { assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import type { ImportPart } from "../../src/storage/import.ts";
import { beginStaging } from "../../src/storage/staging.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { readStamps } from "../support/history.ts";
import { countTaken, reclaimAll } from "../support/reclaiming.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const clear = (lba: number, blockCount: number) => ({ lba, blockCount });

async function* some(...parts: (ImportPart | (() => Promise<unknown>))[]): AsyncGenerator<ImportPart> {
  for (const part of parts) {
    if (typeof part === "function") await part();
    else yield part;
  }
}

async function take({ storage }: TestStorage, name: string, volume = "v"): Promise<string> {
  const input = { volumes: [volume], name, untilSealed: false };
  return (await storage.takeSnapshot(TESTER, input, AbortSignal.timeout(1e4))).snapshotId;
}

async function live({ storage }: TestStorage, volume = "v"): Promise<number[]> {
  const { blockCount } = await storage.getVolume(volume);
  return readStamps(await storage.readVolume(volume, undefined, { lba: 0, blockCount }), BLOCK_BYTES);
}

async function then({ storage }: TestStorage, snapshot: string, blockCount: number): Promise<number[]> {
  const range = { lba: 0, blockCount };
  return readStamps(await storage.readSnapshot(snapshot, undefined, undefined, range), BLOCK_BYTES);
}

function importing(
  { storage }: TestStorage,
  input: { blockCount: number; base?: string; snapshotName?: string },
) {
  return (...parts: Parameters<typeof some>) =>
    storage.importVolume(TESTER, "v", undefined, input, some(...parts));
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, StorageError) as StorageError).code;
}

/** Volume `v` of twelve blocks, 1 to 8 in the first eight, and the snapshot `base` of just that. */
async function createBase(options: Parameters<typeof createTestStorage>[0] = {}): Promise<TestStorage> {
  const test = await createTestStorage(options);
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 12 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await take(test, "base");
  return test;
}

const BASE = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0];

/** Nothing is staged any more, and all space but `taken` segments is free. */
async function assertNothingLeft(test: TestStorage, taken: number, at?: Date): Promise<void> {
  const { database } = test.test;
  await test.drain();
  await reclaimAll(database, at);
  assertEquals(await countTaken(test), taken);
  const [{ stagings, reclaims }] = await database.$client`
    select (select count(*) from stagings) as stagings, (select count(*) from reclaims) as reclaims`;
  assertEquals([stagings, reclaims], [0, 0]);
  await assertSpaceIsSound(database);
}

Deno.test("importVolume() of all there is leaves nothing else in the volume, and a snapshot of it", async () => {
  await using test = await createBase();
  const { storage } = test;
  const imported = await importing(test, { blockCount: 10, snapshotName: "in" })(
    write(2, 50, 3),
    clear(6, 1),
    write(9, 60),
  );
  const expected = [0, 0, 50, 51, 52, 0, 0, 0, 0, 60];
  assertEquals(imported.volume.blockCount, 10);
  assertEquals(await live(test), expected);
  assertEquals(await then(test, "in", 10), expected);
  assertEquals(await then(test, "base", 12), BASE);
  assertEquals((await storage.getSnapshot("in")).sequence, imported.sequence);
  await storage.append(TESTER, "v", undefined, [write(0, 9)]);
  await test.drain();
  assertEquals(await live(test), [9, ...expected.slice(1)]);
  assertEquals(await then(test, "in", 10), expected);
  await storage.deleteSnapshot(TESTER, "base");
  await assertNothingLeft(test, 4);
});

Deno.test("importVolume() of a difference goes on from its base, clears, and grows the volume", async () => {
  await using test = await createBase();
  await importing(test, { blockCount: 20, base: "base", snapshotName: "in" })(
    write(1, 50),
    clear(2, 4),
    write(15, 60, 2),
  );
  const expected = [1, 50, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 60, 61, 0, 0, 0];
  assertEquals(await live(test), expected);
  assertEquals(await then(test, "base", 12), BASE);
  await importing(test, { blockCount: 20, base: "in" })(write(0, 70));
  assertEquals(await live(test), [70, ...expected.slice(1)]);
  for (const name of ["base", "in"]) {
    await test.drain();
    await test.storage.deleteSnapshot(TESTER, name);
    await reclaimAll(test.test.database);
    assertEquals(await live(test), [70, ...expected.slice(1)]);
  }
});

Deno.test("importVolume() that makes the volume smaller leaves nothing behind its end to come back", async () => {
  await using test = await createBase();
  await importing(test, { blockCount: 3, base: "base" })(write(0, 50));
  assertEquals(await live(test), [50, 2, 3]);
  await test.storage.changeVolume(TESTER, "v", undefined, { blockCount: 12 });
  assertEquals(await live(test), [50, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
});

Deno.test("importVolume() takes a base that the volume was cloned from or reverted to", async () => {
  await using test = await createBase();
  const { storage } = test;
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "base" });
  await storage.importVolume(TESTER, "c", undefined, { blockCount: 12, base: "base" }, some(write(1, 50)));
  assertEquals(await live(test, "c"), [1, 50, ...BASE.slice(2)]);
  await storage.append(TESTER, "v", undefined, [write(0, 9)]);
  const input = { blockCount: 12, base: "base" };
  assertEquals(await codeOf(importing(test, input)()), "volume-changed");
  await storage.revertVolume(TESTER, "v", undefined, "base");
  await importing(test, input)(write(0, 10));
  assertEquals(await live(test), [10, ...BASE.slice(1)]);
});

Deno.test("importVolume() refuses a base that the volume is no longer equal to, or never was, and begins nothing", async () => {
  await using test = await createBase();
  const { storage } = test;
  const never = () => Promise.reject(new Error("a part was asked for"));
  const attempt = (base: string, blockCount = 12) => codeOf(importing(test, { base, blockCount })(never));
  await storage.createVolume(TESTER, { name: "w", blockCount: 12 });
  await take(test, "other", "w");
  await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], name: "part", lba: 1, blockCount: 4, untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  const cancelled = await take(test, "cancelled");
  await storage.deleteSnapshot(TESTER, "cancelled");
  assertEquals(await attempt("other"), "unrelated-snapshots");
  assertEquals(await attempt("part"), "outside-snapshot");
  assertEquals(await attempt("nowhere"), "snapshot-not-found");
  assertEquals(await attempt(cancelled), "snapshot-not-found");
  assertEquals(await attempt("base", 2 ** 40), "invalid-argument");
  await storage.changeVolume(TESTER, "v", undefined, { blockCount: 13 });
  assertEquals(await attempt("base"), "volume-changed");
  await take(test, "grown");
  await storage.append(TESTER, "v", undefined, [{ lba: 0, trim: 1 }]);
  assertEquals(await attempt("grown"), "volume-changed");
  assertEquals(await live(test), [0, ...BASE.slice(1), 0]);
  await assertNothingLeft(test, 3);
});

Deno.test("importVolume() refuses a name before it reads, and one that is taken meanwhile in the end", async () => {
  await using test = await createBase();
  const never = () => Promise.reject(new Error("a part was asked for"));
  for (const [snapshotName, code] of [["base", "name-taken"], ["-", "invalid-argument"]]) {
    assertEquals(await codeOf(importing(test, { blockCount: 12, snapshotName })(never)), code);
  }
  const late = importing(test, { blockCount: 12, snapshotName: "late" })(
    write(0, 9),
    () => take(test, "late"),
  );
  assertEquals(await codeOf(late), "name-taken");
  assertEquals(await live(test), BASE);
  await test.storage.deleteSnapshot(TESTER, "late");
  await assertNothingLeft(test, 2);
});

for (const base of [undefined, "base"]) {
  const what = base === undefined ? "all there is" : "a difference";
  const input = { blockCount: 12, ...(base === undefined ? {} : { base }) };

  Deno.test(`importVolume() of ${what} is refused when the volume is written meanwhile, and the write stays`, async () => {
    await using test = await createBase();
    const { storage } = test;
    for (const part of [write(11, 9), { lba: 3, trim: 1 }]) {
      const code = await codeOf(
        importing(test, input)(
          write(0, 50, 2),
          () => storage.append(TESTER, "v", undefined, [part]),
          write(4, 52),
        ),
      );
      assertEquals(code, "volume-changed");
      const expected = await live(test);
      await test.drain();
      assertEquals(await live(test), expected);
      if (base !== undefined) await storage.revertVolume(TESTER, "v", undefined, "base");
      else assertEquals(expected[11], 9);
    }
    assertEquals((await live(test))[0], 1);
    await storage.revertVolume(TESTER, "v", undefined, "base", undefined);
    await assertNothingLeft(test, 2);
  });

  Deno.test(`importVolume() of ${what} is refused when the volume is reverted, resized or deleted meanwhile`, async () => {
    await using test = await createBase();
    const { storage } = test;
    const meanwhile = (act: () => Promise<unknown>) => codeOf(importing(test, input)(write(0, 50), act));
    assertEquals(
      await meanwhile(() => storage.revertVolume(TESTER, "v", undefined, "base")),
      "volume-changed",
    );
    assertEquals(
      await meanwhile(() => storage.changeVolume(TESTER, "v", undefined, { blockCount: 20 })),
      "volume-changed",
    );
    await storage.revertVolume(TESTER, "v", undefined, "base");
    assertEquals(await live(test), BASE);
    assertEquals(await meanwhile(() => storage.deleteVolume(TESTER, "v")), "volume-not-found");
    await assertNothingLeft(test, 2);
  });

  Deno.test(`importVolume() of ${what}, two at once: one is taken, the other refused`, async () => {
    await using test = await createBase();
    const other = await test.openAnother();
    const both = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const parts = (index: number, stamp: number) =>
      some(write(0, stamp), async () => {
        both[index].resolve();
        await both[1 - index].promise;
      }, write(5, stamp));
    const outcomes = await Promise.allSettled([
      test.storage.importVolume(TESTER, "v", undefined, input, parts(0, 50)),
      other.importVolume(TESTER, "v", undefined, input, parts(1, 60)),
    ]);
    const stamps = outcomes.flatMap(({ status }, index) => status === "fulfilled" ? [50 + 10 * index] : []);
    const refused = outcomes.flatMap((outcome) => outcome.status === "rejected" ? [outcome.reason.code] : []);
    assertEquals([stamps.length, refused], [1, ["volume-changed"]]);
    assertEquals([(await live(test))[0], (await live(test))[5]], [stamps[0], stamps[0]]);
    const id = (outcomes.find(({ status }) => status === "fulfilled") as PromiseFulfilledResult<
      { snapshotId: string }
    >).value.snapshotId;
    await test.drain();
    await test.storage.deleteSnapshot(TESTER, id);
    await test.storage.deleteVolume(TESTER, "v");
    await assertNothingLeft(test, 2);
  });

  Deno.test(`importVolume() of ${what} that fails on the way changes nothing and gives its space back`, async () => {
    await using test = await createBase();
    const broken = importing(test, input)(write(0, 50, 12), () => Promise.reject(new Error("broken off")));
    await assertRejects(() => broken, Error, "broken off");
    assertEquals(await live(test), BASE);
    await assertNothingLeft(test, 2);
    const { items } = await test.storage.listAudit({ itemsMax: 100 });
    assertEquals(items.filter(({ action }) => action === "volume.import"), []);
  });
}

Deno.test("importVolume() that finds no space is refused, and gives back what it took", async () => {
  await using test = await createBase({ deviceBlocks: 16 });
  assertEquals(
    await codeOf(importing(test, { blockCount: 64 })(write(0, 50, 8), write(8, 60, 8))),
    "insufficient-space",
  );
  assertEquals(await live(test), BASE);
  await assertNothingLeft(test, 2);
});

Deno.test("importVolume() that is larger than the cache waits for the flusher; without one it is refused", async () => {
  const cacheBytesMax = 10 * BLOCK_BYTES;
  await using without = await createBase({
    cacheBytesMax,
    limits: { flushWaitMsMax: 1, flushWaitPollMs: 1 },
  });
  assertEquals(await codeOf(importing(without, { blockCount: 12 })(write(0, 50, 12))), "cache-full");
  await assertNothingLeft(without, 2);
  await using test = await createBase({ cacheBytesMax, flusher: true });
  await importing(test, { blockCount: 100 })(write(0, 50, 100));
  assertEquals(await live(test), Array.from({ length: 100 }, (_, i) => 50 + i));
});

Deno.test("what is staged is in no list, no snapshot of the pool and no look-up; its entries are the volume's", async () => {
  await using test = await createBase();
  const { storage } = test;
  const volumeId = (await storage.getVolume("v")).volumeId;
  await importing(test, { blockCount: 12, base: "base" })(write(0, 50), async () => {
    const [{ staging_id: stagingId }] = await test.test.database.$client`select staging_id from stagings`;
    assertEquals((await storage.listVolumes(undefined, { itemsMax: 9 })).items.map(({ name }) => name), [
      "v",
    ]);
    assertEquals(await codeOf(storage.getVolume(stagingId)), "volume-not-found");
    assertEquals(await codeOf(storage.append(TESTER, stagingId, "main", [write(0, 1)])), "volume-not-found");
    assertEquals(
      await codeOf(storage.readVolume(stagingId, "main", { lba: 0, blockCount: 1 })),
      "volume-not-found",
    );
    const whole = await storage.takeSnapshot(TESTER, { untilSealed: false }, AbortSignal.timeout(1e4));
    assertEquals(whole.volumes.map((covered) => covered.volumeId), [volumeId]);
    assertEquals(await then(test, whole.snapshotId, 12), BASE);
    const queued = (await storage.listCache("main", { itemsMax: 99 })).items;
    assertEquals([...new Set(queued.flatMap((entry) => entry.volumeId ?? []))], [volumeId]);
  });
  assertEquals((await live(test))[0], 50);
});

Deno.test("importVolume() tells of itself once, in audit and events, and only when it was taken", async () => {
  await using test = await createBase();
  const { storage } = test;
  const { snapshotId, volume } = await importing(test, { blockCount: 14, base: "base" })(write(0, 50));
  const { poolId } = volume.pool;
  const events = await storage.listEvents(poolId, { types: ["volume.imported"] }, 0, 10);
  const { snapshotId: baseId } = await storage.getSnapshot("base");
  assertEquals(events.map(({ volumeId, body }) => ({ volumeId, body })), [
    { volumeId: volume.volumeId, body: { name: "v", blockCount: 14, snapshotId, baseId } },
  ]);
  const { items } = await storage.listAudit({ itemsMax: 100 });
  assertEquals(items.filter(({ action }) => action === "volume.import").map(({ targetId }) => targetId), [
    volume.volumeId,
  ]);
});

Deno.test("what a killed process has staged is dropped when its lease is over, and not before", async () => {
  const at = new Date("2026-01-01T00:00:00Z");
  const later = (ms: number) => new Date(at.getTime() + ms);
  await using test = await createBase({ clock: () => at });
  const { database } = test.test;
  const volume = await test.storage.getVolume("v");
  const { snapshotId: baseId } = await test.storage.getSnapshot("base");
  for (const base of [{}, { baseId }]) {
    await beginStaging(database, volume, { ...base, blockCount: 12, keptUntil: later(1_000) });
  }
  await reclaimAll(database, later(999));
  const [{ count }] = await database.$client`select count(*) from stagings`;
  assertEquals(count, 2);
  await assertNothingLeft(test, 2, later(1_000));
  assertEquals(await live(test), BASE);
});

Deno.test("importVolume() puts its lease off while data come, and is refused once it was dropped", async () => {
  const clock = { at: new Date("2026-01-01T00:00:00Z") };
  await using test = await createBase({ clock: () => clock.at, limits: { stagingKeptMs: 1_000 } });
  const pass = (ms: number) => async () => {
    clock.at = new Date(clock.at.getTime() + ms);
    await reclaimAll(test.test.database, clock.at);
  };
  const input = { blockCount: 12, base: "base" };
  await importing(test, input)(write(0, 50), pass(900), write(1, 51), pass(900), write(2, 52), pass(900));
  assertEquals(await live(test), [50, 51, 52, ...BASE.slice(3)]);
  await test.storage.revertVolume(TESTER, "v", undefined, "base");
  for (const rest of [[], [write(2, 52)]]) {
    assertEquals(await codeOf(importing(test, input)(write(0, 50), pass(1_000), ...rest)), "timed-out");
  }
  assertEquals(await live(test), BASE);
});
