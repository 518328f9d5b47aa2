/** Scrubs: what they find, that they go on wherever they were left, and that they hold up nobody. */

import { assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { transact } from "../../src/database/client.ts";
import { StorageError } from "../../src/errors.ts";
import type { StorageLimits } from "../../src/storage/limits.ts";
import { PLACES_MAX, type Scrub } from "../../src/storage/scrub.ts";
import { scrubStep } from "../../src/storage/scrub_step.ts";
import { Scrubber } from "../../src/storage/scrubber.ts";
import { damage, DAMAGES } from "../support/damage.ts";
import { fill } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const BLOCKS = 40;
const STEP_BLOCKS = 3;
const LIMITS: StorageLimits = {
  ...STORAGE_LIMITS,
  scrubStepBytes: STEP_BLOCKS * BLOCK_BYTES,
  scrubProgressMs: 1_000,
};
const SWEEPS_MAX = 1_000;

interface Scrubbed extends TestStorage {
  readonly clock: { at: Date };
  createScrubber(): Scrubber;
  start(): Promise<Scrub>;
  get(): Promise<Scrub>;
  events(): Promise<{ type: string; body: Record<string, unknown> }[]>;
}

/** Volume `v` with 1 to 40 in its blocks, all flushed. Block n is of segment n / 4. */
async function createScrubbed(): Promise<Scrubbed> {
  const clock = { at: new Date("2026-01-01T00:00:00Z") };
  const test = await createTestStorage({ clock: () => clock.at, limits: LIMITS });
  const { storage, test: { database } } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  await storage.append(TESTER, "v", undefined, [write(0, 1, BLOCKS)]);
  await test.drain();
  return {
    ...test,
    clock,
    createScrubber: () =>
      new Scrubber(database, {
        limits: LIMITS,
        clock: () => clock.at,
        onFault: (error) => {
          throw error;
        },
      }),
    start: () => storage.startScrub(TESTER, "main-1", undefined),
    get: () => storage.getScrub("main-1", undefined),
    events: async () => {
      const { poolId } = await storage.getPool("main");
      return (await storage.listEvents(poolId, {}, 0, 1_000)).filter(({ type }) => type.startsWith("scrub."))
        .map(({ type, body }) => ({ type, body }));
    },
  };
}

/** Steps until nothing goes on, and answers how the scrub has ended. */
async function finish(system: Scrubbed, scrubber = system.createScrubber()): Promise<Scrub> {
  for (let sweeps = 0; await scrubber.sweep(); sweeps++) {
    if (sweeps > SWEEPS_MAX) throw new Error("The scrub does not end");
  }
  return await system.get();
}

Deno.test("a scrub looks at every flushed block once, in steps of bounded size, and says so", async () => {
  await using system = await createScrubbed();
  const started = await system.start();
  assertEquals([started.status, started.segmentsDone, started.segmentsTotal], ["running", 0, 10]);
  const scrubber = system.createScrubber();
  await scrubber.sweep();
  assertEquals((await system.get()).blocksChecked, STEP_BLOCKS);
  const { scrubId: _, startedAt, endedAt, ...done } = await finish(system, scrubber);
  assertEquals(done, {
    poolId: started.poolId,
    deviceId: started.deviceId,
    status: "done",
    segmentsDone: 10,
    segmentsTotal: 10,
    blocksChecked: BLOCKS,
    blocksUnchecked: 0,
    blocksCorrupt: 0,
    corrupt: [],
  });
  assertEquals([startedAt, endedAt], [system.clock.at, system.clock.at]);
  assertEquals((await system.events()).map(({ type }) => type), ["scrub.started", "scrub.finished"]);
});

for (const [what, { flushed }] of Object.entries(DAMAGES)) {
  Deno.test(`a scrub finds the one block of which ${what} was changed, and changes nothing`, async () => {
    await using system = await createScrubbed();
    const { storage, test: { database } } = system;
    await damage(database, "blocks", 9, flushed);
    const before = await database.$client`select * from blocks order by segment_id, block_index`;
    await system.start();
    const { status, blocksCorrupt, corrupt } = await finish(system);
    assertEquals([status, blocksCorrupt, corrupt.length], ["done", 1, 1]);
    const [{ fault, ...place }] = corrupt;
    const { volumeId } = await storage.getVolume("v");
    assertEquals(place, { segmentId: 2, block: 1, sequence: 3, lba: 9, volumeId });
    const refused = await assertRejects(
      () => storage.readVolume("v", undefined, { lba: 9, blockCount: 1 }),
      StorageError,
    );
    assertEquals(refused.message.includes(fault), true, "a read finds the same fault");
    const told = (await system.events()).filter(({ type }) => type === "scrub.corrupt");
    assertEquals(told.map(({ body }) => [body.blocksCorrupt, body.corrupt]), [[1, corrupt]]);
    assertEquals(await database.$client`select * from blocks order by segment_id, block_index`, before);
  });
}

Deno.test("a scrub tells apart what is checked, unchecked, trimmed and without a map", async () => {
  await using system = await createScrubbed();
  const { storage, test: { database } } = system;
  await storage.append(TESTER, "v", undefined, [{ lba: 0, trim: 3 }]);
  await system.drain();
  await database.$client`update blocks set checksum = null where segment_id = 4`;
  await database.$client`delete from segment_map where segment_id = 9`;
  await system.start();
  const scrub = await finish(system);
  assertEquals([scrub.blocksChecked, scrub.blocksUnchecked, scrub.blocksCorrupt], [BLOCKS - 7, 4, 4]);
  assertEquals(
    scrub.corrupt,
    [0, 1, 2, 3].map((block) => ({ segmentId: 9, block, sequence: 10, fault: "no map names its segment" })),
  );
});

Deno.test("a scrub goes on where it was left, whoever takes it up, and a killed step did nothing", async () => {
  await using system = await createScrubbed();
  const { test: { database } } = system;
  for (const lba of [4, 22]) await damage(database, "blocks", lba, DAMAGES["a bit of it"].flushed);
  const { poolId, deviceId } = await system.start();
  const killed = new Error("killed");
  for (let done = 0; (await system.get()).status === "running"; done++) {
    if (done > SWEEPS_MAX) throw new Error("The scrub does not end");
    const before = await system.get();
    const step = transact(database, async (tx) => {
      await scrubStep(tx, { poolId, deviceId }, { limits: LIMITS, at: system.clock.at });
      throw killed;
    });
    assertEquals(await step.catch((error) => error), killed);
    assertEquals(await system.get(), before);
    await system.createScrubber().sweep();
  }
  const scrub = await system.get();
  assertEquals([scrub.blocksChecked, scrub.corrupt.map(({ lba }) => lba)], [BLOCKS, [4, 22]]);
});

Deno.test("two scrubbers take turns at a scrub: what one has, the other leaves", async () => {
  await using system = await createScrubbed();
  const { test: { database } } = system;
  const { poolId, deviceId } = await system.start();
  const context = { limits: LIMITS, at: system.clock.at };
  await transact(database, async (tx) => {
    assertEquals(await scrubStep(tx, { poolId, deviceId }, context), true);
    assertEquals(await system.createScrubber().sweep(), false);
  });
  const [one, other] = [system.createScrubber(), system.createScrubber()];
  while ((await Promise.all([one.sweep(), other.sweep()])).includes(true));
  assertEquals((await system.get()).blocksChecked, BLOCKS);
});

Deno.test("a scrub finds blocks that are written while it goes as they are found, and holds up no write", async () => {
  await using system = await createScrubbed();
  const { storage, test: { database } } = system;
  const { poolId, deviceId } = await system.start();
  await transact(database, async (tx) => {
    await scrubStep(tx, { poolId, deviceId }, { limits: LIMITS, at: system.clock.at });
    await storage.append(TESTER, "v", undefined, [write(0, 100, BLOCKS)]);
    await system.drain();
  });
  const scrub = await finish(system);
  assertEquals([scrub.status, scrub.blocksChecked, scrub.blocksCorrupt], ["done", BLOCKS, 0]);
});

Deno.test("startScrub() answers the scrub that is running, and begins anew when it has ended", async () => {
  await using system = await createScrubbed();
  await damage(system.test.database, "blocks", 0, DAMAGES["a bit of it"].flushed);
  const both = await Promise.all([system.start(), system.start()]);
  assertEquals(both[0].scrubId, both[1].scrubId);
  await system.createScrubber().sweep();
  const running = await system.start();
  assertEquals([running.scrubId, running.blocksChecked], [both[0].scrubId, STEP_BLOCKS]);
  assertEquals((await finish(system)).blocksCorrupt, 1);
  system.clock.at = new Date("2026-01-02T00:00:00Z");
  const next = await system.start();
  assertEquals(next.scrubId === running.scrubId, false);
  assertEquals([next.blocksChecked, next.blocksCorrupt, next.corrupt, next.endedAt], [0, 0, [], undefined]);
  assertEquals([next.startedAt, next.segmentsDone], [system.clock.at, 0]);
  assertEquals((await finish(system)).blocksCorrupt, 1);
  const { items } = await system.storage.listAudit({ itemsMax: 100 });
  assertEquals(items.filter(({ action }) => action === "scrub.start").length, 2);
  const types = (await system.events()).map(({ type }) => type);
  assertEquals(types, Array(2).fill(["scrub.started", "scrub.corrupt", "scrub.finished"]).flat());
});

Deno.test("cancelScrub() ends a scrub where it is, once, and one that has ended stays as it is", async () => {
  await using system = await createScrubbed();
  const cancel = () => system.storage.cancelScrub(TESTER, "main-1", undefined);
  for (const asked of [cancel, system.get]) {
    assertEquals((await assertRejects(asked, StorageError) as StorageError).code, "scrub-not-found");
  }
  await system.start();
  await system.createScrubber().sweep();
  const cancelled = await cancel();
  assertEquals([cancelled.status, cancelled.blocksChecked, cancelled.endedAt], [
    "cancelled",
    3,
    system.clock.at,
  ]);
  assertEquals(await system.createScrubber().sweep(), false);
  assertEquals(await cancel(), cancelled);
  const { items } = await system.storage.listAudit({ itemsMax: 100 });
  assertEquals(items.map(({ action }) => action).slice(-2), ["scrub.start", "scrub.cancel"]);
  const last = (await system.events()).at(-1);
  assertEquals([last?.type, last?.body.status, last?.body.blocksChecked], ["scrub.finished", "cancelled", 3]);
});

Deno.test("a scrub tells its progress, but no oftener than its bound", async () => {
  await using system = await createScrubbed();
  const { scrubId } = await system.start();
  const scrubber = system.createScrubber();
  for (let step = 0; step < 4; step++) {
    system.clock.at = new Date(system.clock.at.getTime() + LIMITS.scrubProgressMs / 2);
    await scrubber.sweep();
  }
  const told = (await system.events()).filter(({ type }) => type === "scrub.progress");
  const counts = { blocksUnchecked: 0, blocksCorrupt: 0, segmentsTotal: 10, scrubId };
  assertEquals(told.map(({ body }) => body), [
    { ...counts, segmentsDone: 1, blocksChecked: 6 },
    { ...counts, segmentsDone: 2, blocksChecked: 12 },
  ]);
});

Deno.test("a scrub counts all corrupt blocks, and remembers and tells the places of the first", async () => {
  await using system = await createScrubbed();
  const { storage, test: { database } } = system;
  await storage.createVolume(TESTER, { name: "w", blockCount: 400 });
  await storage.append(TESTER, "w", undefined, [{ lba: 0, data: fill(1, 120, BLOCK_BYTES) }]);
  await system.drain();
  await database.$client`
    update blocks set data = set_bit(data, 0, 1 - get_bit(data, 0)) where segment_id >= 10`;
  await system.start();
  const scrub = await finish(system);
  assertEquals([scrub.blocksChecked, scrub.blocksCorrupt, scrub.corrupt.length], [
    BLOCKS + 120,
    120,
    PLACES_MAX,
  ]);
  const { volumeId } = await storage.getVolume("w");
  assertEquals(
    scrub.corrupt.map((place) => place.lba),
    Array.from({ length: PLACES_MAX }, (_, index) => index),
  );
  assertEquals(new Set(scrub.corrupt.map((place) => place.volumeId)), new Set([volumeId]));
  const told = (await system.events()).filter(({ type }) => type === "scrub.corrupt")
    .flatMap(({ body }) => body.corrupt as unknown[]);
  assertEquals(told, scrub.corrupt);
});

Deno.test("a scrub is of one device: others of the pool are left alone", async () => {
  await using system = await createScrubbed();
  const { storage } = system;
  await storage.addDevice(TESTER, { name: "main-2", blockCount: 400 });
  await storage.startScrub(TESTER, "main-2", undefined);
  await system.createScrubber().sweep();
  const scrub = await storage.getScrub("main-2", undefined);
  assertEquals([scrub.status, scrub.blocksChecked, scrub.segmentsTotal], ["done", 0, 0]);
  await assertRejects(() => system.get(), StorageError);
});
