import { assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { transact } from "../../src/database/client.ts";
import { lockPool } from "../../src/storage/pool.ts";
import { Reclaimer } from "../../src/storage/reclaimer.ts";
import type { Keep } from "../../src/storage/retention.ts";
import { retainStep } from "../../src/storage/schedule_retention.ts";
import type { Scheduler } from "../../src/storage/scheduler.ts";
import type { Snapshot } from "../../src/storage/snapshot.ts";
import { until } from "../support/door.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const START_MS = Date.UTC(2026, 10, 25, 10);
const HOUR_MS = 3_600_000;

interface RetainedStorage extends TestStorage {
  readonly scheduler: Scheduler;
  /** The next hour's run, sealed unless it is to stay pending; then whatever the rules ask for. */
  run(options?: { drained?: boolean }): Promise<void>;
  /** The hours of the snapshots that are left, oldest first. */
  left(): Promise<string[]>;
  of(hour: number): Promise<Snapshot>;
  readonly at: () => Date;
}

/** A storage system with the hourly schedule `s` of volume `v`, first due at 11. */
async function createRetained(keep?: Keep): Promise<RetainedStorage> {
  let nowMs = START_MS;
  const clock = () => new Date(nowMs);
  const test = await createTestStorage({ clock });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await storage.schedules.create(TESTER, {
    name: "s",
    volumes: ["v"],
    every: "PT1H",
    timeZone: "UTC",
    skipUnchanged: false,
    snapshotName: "{schedule}-{time}",
    labels: {},
    paused: false,
    ...(keep === undefined ? {} : { keep }),
  });
  const scheduler = test.createScheduler();
  const list = async () => (await storage.listSnapshots({}, { itemsMax: 1_000 })).items;
  const toName = (hour: number) =>
    `s-${new Date(START_MS + (hour - 10) * HOUR_MS).toISOString().slice(0, 19).replaceAll(/[-:]/g, "")}Z`;
  return {
    ...test,
    scheduler,
    at: clock,
    run: async ({ drained = true } = {}) => {
      if (drained) await test.drain();
      nowMs += HOUR_MS;
      while (await scheduler.sweep());
    },
    left: async () =>
      (await list()).map(({ name, createdAt }) => name?.startsWith("s-") ? hourOf(createdAt) : name ?? ""),
    of: (hour) => storage.getSnapshot(toName(hour)),
  };
}

function hourOf(at: Date): string {
  return String(10 + (at.getTime() - START_MS) / HOUR_MS);
}

Deno.test("after each run what no rule keeps goes, as if the schedule had deleted it", async () => {
  await using test = await createRetained({ last: 2 });
  for (let hour = 11; hour <= 13; hour++) await test.run();
  const { snapshotId } = await test.of(12);
  await test.run();
  assertEquals(await test.left(), ["13", "14"]);
  const { items } = await test.storage.listAudit({ itemsMax: 100 });
  const records = items.filter(({ action }) => action === "snapshot.delete");
  assertEquals(records.length, 2);
  assertEquals(records.map(({ origin, clientName }) => [origin, clientName])[1], ["schedule s", "system"]);
  assertEquals(records[1].targetId, snapshotId);
  const { poolId } = await test.storage.getPool("main");
  const events = await test.storage.listEvents(poolId, { types: ["snapshot.deleted"] }, 0, 10);
  assertEquals([events.length, events[1].snapshotId], [2, snapshotId]);
});

Deno.test("without rules nothing goes; rules that are given later are applied in the background, in steps", async () => {
  await using test = await createRetained();
  for (let hour = 11; hour <= 20; hour++) await test.run();
  await test.drain();
  assertEquals((await test.left()).length, 10);
  await test.storage.schedules.change(TESTER, "s", undefined, { keep: { last: 3 } });
  const { pool: { poolId }, scheduleId } = await test.storage.schedules.get("s");
  const limits = { ...STORAGE_LIMITS, retentionStepMax: 3 };
  const step = () => retainStep(test.test.database, { poolId, scheduleId }, limits, test.at());
  assertEquals([await step(), (await test.left()).length], [3, 7]);
  assertEquals([await step(), (await test.left()).length], [3, 4]);
  assertEquals([await test.scheduler.sweep(), await test.left()], [true, ["18", "19", "20"]]);
  assertEquals(await test.scheduler.sweep(), false);
  // Wider rules bring nothing back, and take nothing.
  await test.storage.schedules.change(TESTER, "s", undefined, { keep: { daily: 7 } });
  assertEquals([await test.scheduler.sweep(), await test.left()], [false, ["18", "19", "20"]]);
  await test.storage.schedules.change(TESTER, "s", undefined, { keep: null });
  await test.run();
  assertEquals(await test.left(), ["18", "19", "20", "21"]);
});

Deno.test("what is on its way into another pool stays, and goes when the copy has ended", async () => {
  await using test = await createRetained({ last: 1 });
  const { storage } = test;
  await storage.schedules.change(TESTER, "s", undefined, { keep: { last: 9 } });
  for (let hour = 11; hour <= 13; hour++) await test.run();
  await storage.createPool(TESTER, {
    name: "vault",
    blockSizeBytes: BLOCK_BYTES,
    segmentBlocks: 4,
    cacheBytesMax: 2 ** 20,
  });
  const { snapshotId: snapshot } = await test.of(12);
  const { copyId } = await storage.copies.create(TESTER, { snapshot, pool: "vault" });
  await storage.schedules.change(TESTER, "s", undefined, { keep: { last: 1 } });
  await test.run();
  assertEquals(await test.left(), ["12", "14"]);
  await storage.copies.cancel(TESTER, copyId);
  await test.run();
  assertEquals(await test.left(), ["15"]);
});

Deno.test("what is held, pending, cloned or reverted to stays, counts for the rules, and goes when nothing holds it", async () => {
  await using test = await createRetained({ last: 1 });
  const { storage } = test;
  await storage.schedules.change(TESTER, "s", undefined, { keep: { last: 9 } });
  for (let hour = 11; hour <= 15; hour++) await test.run();
  await test.drain();
  const id = async (hour: number) => (await test.of(hour)).snapshotId;
  await storage.holdSnapshot(TESTER, await id(11), undefined, {
    until: new Date(START_MS + 7.5 * HOUR_MS),
    reason: "",
  });
  await storage.cloneVolume(TESTER, { name: "c", snapshot: await id(12) });
  await storage.revertVolume(TESTER, "v", undefined, await id(13));
  await storage.schedules.change(TESTER, "s", undefined, { keep: { last: 1 } });
  await test.run({ drained: false });
  // 16 is pending, and the newest.
  assertEquals(await test.left(), ["11", "12", "13", "16"]);
  await test.run({ drained: false });
  assertEquals(await test.left(), ["11", "12", "13", "16", "17"]);
  assertEquals((await test.of(16)).status, "pending");
  // The hold is over at 17:30, and the clone goes.
  await storage.deleteVolume(TESTER, "c");
  await reclaimAll(test);
  await test.run();
  assertEquals(await test.left(), ["13", "18"]);
  await storage.deleteVolume(TESTER, "v");
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await reclaimAll(test);
  await storage.schedules.change(TESTER, "s", undefined, { volumes: ["v"] });
  await test.run();
  // 18 was of the reverted volume too.
  assertEquals(await test.left(), ["13", "19"]);
  await reclaimAll(test);
  await test.run();
  assertEquals(await test.left(), ["20"]);
});

Deno.test("snapshots of other schedules and of people stay, whatever their names, and so do cancelled ones", async () => {
  await using test = await createRetained({ last: 1 });
  const { storage } = test;
  await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], name: "mine", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  await storage.schedules.create(TESTER, {
    name: "other",
    volumes: ["v"],
    every: "P1D",
    timeZone: "UTC",
    skipUnchanged: false,
    snapshotName: "other.{time}",
    labels: {},
    paused: false,
  });
  await storage.schedules.run(TESTER, "other");
  await test.run();
  const { snapshotId } = await test.of(11);
  await storage.deleteSnapshot(TESTER, snapshotId);
  assertEquals((await storage.getSnapshot(snapshotId)).status, "cancelled");
  for (let hour = 12; hour <= 14; hour++) await test.run();
  assertEquals(await test.left(), ["mine", "other.20261125T100000Z", "", "14"]);
});

Deno.test("the newest stays even if its schedule takes no more", async () => {
  await using test = await createRetained({ for: "PT1S" });
  await test.run();
  await test.run();
  await test.drain();
  await test.storage.schedules.change(TESTER, "s", undefined, { paused: true, keep: { for: "PT2S" } });
  await test.run();
  assertEquals(await test.left(), ["12"]);
});

Deno.test("rules that change, or a clone that is made, after it was decided keep the snapshot", async () => {
  for (const change of ["rules", "clone", "schedule"]) {
    await using test = await createRetained();
    const { storage, test: { database } } = test;
    for (let hour = 11; hour <= 13; hour++) await test.run();
    await test.drain();
    const { pool: { poolId }, scheduleId } = await storage.schedules.change(TESTER, "s", undefined, {
      keep: { last: 2 },
    });
    const key = { poolId, scheduleId };
    let stepped: Promise<number> | undefined;
    // The step has decided, and waits for the pool.
    await transact(database, async (tx) => {
      await lockPool(tx, poolId);
      stepped = retainStep(database, key, STORAGE_LIMITS, test.at());
      await until(() => hasWaiting(test));
      if (change === "rules") await storage.schedules.change(TESTER, "s", undefined, { keep: { last: 3 } });
      else if (change === "schedule") await storage.schedules.delete(TESTER, "s");
      else {
        const { volumes: [covered] } = await test.of(11);
        await tx.$client`
          insert into timelines (pool_id, timeline_id, parent_timeline_id, parent_epoch)
          values (${poolId}, 1000, ${covered.timelineId}, ${covered.epoch})`;
      }
    });
    assertEquals([change, await stepped, await test.left()], [change, 0, ["11", "12", "13"]]);
  }
});

Deno.test("several processes at once remove each once", async () => {
  await using test = await createRetained();
  for (let hour = 11; hour <= 16; hour++) await test.run();
  await test.drain();
  await test.storage.schedules.change(TESTER, "s", undefined, { keep: { last: 1 } });
  const schedulers = Array.from({ length: 4 }, () => test.createScheduler());
  await Promise.all(schedulers.map((scheduler) => scheduler.sweep()));
  assertEquals(await test.left(), ["16"]);
  const { items } = await test.storage.listAudit({ itemsMax: 100 });
  assertEquals(items.filter(({ action }) => action === "snapshot.delete").length, 5);
});

Deno.test("rules look at as many snapshots as there are", async () => {
  await using test = await createRetained();
  await test.run();
  await test.drain();
  const { pool: { poolId }, scheduleId } = await test.storage.schedules.get("s");
  // As if it had taken one a minute for a day, ahead of the first one's marker.
  await test.test.database.$client`
    insert into snapshots (pool_id, snapshot_id, status, marker_sequence, bytes_before, audit_id, created_at, sealed_at, schedule_id)
    select pool_id, gen_random_uuid(), 'sealed', marker_sequence - i, 0, audit_id,
      created_at - i * interval '1 minute', sealed_at, schedule_id
    from snapshots cross join generate_series(1, 1440) as i`;
  await test.storage.schedules.change(TESTER, "s", undefined, { keep: { hourly: 1_000, for: "PT23H" } });
  const limits = { ...STORAGE_LIMITS, retentionStepMax: 10_000 };
  const removed = await retainStep(test.test.database, { poolId, scheduleId }, limits, test.at());
  // Those of the last hour, but its newest.
  assertEquals(removed, 1440 - 23 * 60 - 1);
});

async function hasWaiting({ test: { database } }: TestStorage): Promise<boolean> {
  const [{ waiting }] = await database.$client`
    select count(*) as waiting from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'`;
  return waiting > 0;
}

async function reclaimAll(test: RetainedStorage): Promise<void> {
  await test.drain();
  const reclaimer = new Reclaimer(test.test.database, { pollMs: 1_000, clock: test.at, onFault: () => {} });
  while (await reclaimer.sweep());
}
