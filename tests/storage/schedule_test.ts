import { assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import type { StorageLimits } from "../../src/storage/limits.ts";
import type { Schedule } from "../../src/storage/schedule.ts";
import type { RunPoint } from "../../src/storage/schedule_run.ts";
import type { NewSchedule } from "../../src/storage/schedules.ts";
import type { Snapshot } from "../../src/storage/snapshot.ts";
import { until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const START = new Date("2026-11-25T10:00:00Z");
const POINTS: RunPoint[] = ["locked", "chosen", "placed", "told"];
const SETTINGS = {
  every: "PT1H",
  timeZone: "UTC",
  skipUnchanged: false,
  snapshotName: "{schedule}-{time}",
  labels: {},
  paused: false,
};

interface TimedStorage extends TestStorage {
  /** Sets the clock of everything on it. */
  set(at: string | Date): void;
}

/** A storage system whose clock stands still until the test sets it, with volumes `v` and `w`. */
async function createTimedStorage(options: { limits?: Partial<StorageLimits> } = {}): Promise<TimedStorage> {
  let now = START;
  const test = await createTestStorage({ ...options, clock: () => now });
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 16 });
  await test.storage.createVolume(TESTER, { name: "w", blockCount: 16 });
  return { ...test, set: (at) => now = new Date(at) };
}

async function create(
  { storage }: TestStorage,
  name: string,
  settings: Partial<NewSchedule> = {},
): Promise<Schedule> {
  const timed = "cron" in settings ? { every: undefined } : {};
  return await storage.schedules.create(TESTER, { name, ...SETTINGS, ...timed, ...settings } as NewSchedule);
}

async function write({ storage }: TestStorage, volume: string, lba: number, stamp: number): Promise<void> {
  await storage.append(TESTER, volume, undefined, [{ lba, data: fill(stamp, 1, BLOCK_BYTES) }]);
}

async function listAll({ storage }: TestStorage): Promise<Snapshot[]> {
  return (await storage.listSnapshots({}, { itemsMax: 1_000 })).items;
}

async function namesOf(test: TestStorage): Promise<(string | undefined)[]> {
  return (await listAll(test)).map(({ name }) => name).toSorted();
}

/** What was told of schedules, without what is the same in all. */
async function listTold({ storage }: TestStorage): Promise<[type: string, body: Record<string, unknown>][]> {
  const { poolId } = await storage.getPool("main");
  const events = await storage.listEvents(poolId, {}, 0, 1_000);
  return events.filter(({ type }) => type.startsWith("schedule.")).map(({ type, body }) => {
    const { scheduleId: _id, ...rest } = body;
    return [type.slice("schedule.".length), rest];
  });
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, StorageError) as StorageError).code;
}

// Runs

Deno.test("a run takes one snapshot of all volumes by the SCSI command, and tells who, what and when next", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  const created = await create(test, "hourly", { volumes: ["v", "w"], labels: { by: "schedule" } });
  assertEquals(created.nextRunAt, new Date("2026-11-25T11:00:00Z"));
  await write(test, "v", 0, 1);
  const scheduler = test.createScheduler();
  assertEquals([await scheduler.sweep(), await namesOf(test)], [false, []]);
  test.set("2026-11-25T11:00:00Z");
  assertEquals([await scheduler.sweep(), await scheduler.sweep()], [true, false]);
  const [snapshot, ...others] = await listAll(test);
  assertEquals([snapshot.name, others.length], ["hourly-20261125T110000Z", 0]);
  assertEquals([snapshot.labels, snapshot.scheduleId], [{ by: "schedule" }, created.scheduleId]);
  assertEquals(snapshot.volumes.length, 2);
  const { command, ...record } = await storage.getAuditRecord(snapshot.auditId);
  assertEquals([record.clientName, record.origin], ["system", "schedule hourly"]);
  assertEquals([command?.cdb.toHex(), command?.scsiStatus], ["c00500000000", "GOOD"]);
  const { items } = await storage.listAudit({ itemsMax: 100 });
  assertEquals(
    items.filter(({ action }) => action.startsWith("schedule.")).map((
      { action, clientName, targetId },
    ) => [action, clientName, targetId]),
    [
      ["schedule.create", "tester", created.scheduleId],
      ["schedule.run", "system", created.scheduleId],
    ],
  );
  const found = await storage.schedules.get("hourly");
  assertEquals(found.nextRunAt, new Date("2026-11-25T12:00:00Z"));
  assertEquals(found.lastRunAt, new Date("2026-11-25T11:00:00Z"));
  assertEquals([found.lastSnapshotId, found.lastError], [snapshot.snapshotId, undefined]);
  assertEquals(await listTold(test), [
    ["created", { name: "hourly" }],
    ["ran", { name: "hourly", snapshotName: "hourly-20261125T110000Z" }],
  ]);
});

Deno.test("a schedule of one volume addresses it, and one of a pool sets POOL", async () => {
  await using test = await createTimedStorage();
  await create(test, "one", { volumes: ["w"] });
  await create(test, "all", { pool: "main" });
  await test.storage.createVolume(TESTER, { name: "later", blockCount: 8 });
  test.set("2026-11-25T11:00:01Z");
  await test.createScheduler().sweep();
  const [all, one] = (await listAll(test)).toSorted((a, b) => a.name! < b.name! ? -1 : 1);
  assertEquals([all.volumes.length, all.cdb.toHex()], [3, "c00700000000"]);
  assertEquals([one.volumes.length, one.cdb.toHex()], [1, "c00500000000"]);
});

Deno.test("schedulers of several processes at once take each run once", async () => {
  await using test = await createTimedStorage();
  for (let i = 0; i < 6; i++) await create(test, `s${i}`, { volumes: [i % 2 === 0 ? "v" : "w"] });
  const schedulers = Array.from({ length: 4 }, () => test.createScheduler());
  for (let hour = 11; hour < 15; hour++) {
    test.set(`2026-11-25T${hour}:00:00Z`);
    await Promise.all(schedulers.map((scheduler) => scheduler.sweep()));
    // Who was locked out is not due any more.
    await schedulers[0].sweep();
    assertEquals((await listAll(test)).length, 6 * (hour - 10));
  }
  const told = await listTold(test);
  assertEquals(told.filter(([type]) => type === "ran").length, 24);
  assertEquals(told.filter(([type]) => type === "failed"), []);
});

for (const point of POINTS) {
  Deno.test(`a run that ends at "${point}" has left nothing, and is taken once by the next who looks`, async () => {
    await using test = await createTimedStorage();
    await create(test, "s", { volumes: ["v"] });
    test.set("2026-11-25T11:00:00Z");
    const dying = test.createScheduler({
      onPoint: (reached) => {
        if (reached === point) throw new StorageError("database-unavailable", "Cannot go on");
      },
    });
    assertEquals(await codeOf(dying.sweep()), "database-unavailable");
    const { lastRunAt, nextRunAt } = await test.storage.schedules.get("s");
    assertEquals([await namesOf(test), lastRunAt, nextRunAt], [
      [],
      undefined,
      new Date("2026-11-25T11:00:00Z"),
    ]);
    const scheduler = test.createScheduler();
    assertEquals([await scheduler.sweep(), await scheduler.sweep()], [true, false]);
    assertEquals(await namesOf(test), ["s-20261125T110000Z"]);
    assertEquals((await listTold(test)).map(([type]) => type), ["created", "ran"]);
  });
}

Deno.test("runs that were missed are taken once, and the next one is where it would have been", async () => {
  await using test = await createTimedStorage();
  await create(test, "every", { volumes: ["v"], every: "PT40M" });
  await create(test, "cron", { volumes: ["v"], cron: "30 4 * * *", timeZone: "Europe/Berlin" });
  test.set("2026-12-05T17:01:02Z");
  const scheduler = test.createScheduler();
  assertEquals([await scheduler.sweep(), await scheduler.sweep()], [true, false]);
  assertEquals(await namesOf(test), ["cron-20261205T170102Z", "every-20261205T170102Z"]);
  const next = async (name: string) => (await test.storage.schedules.get(name)).nextRunAt?.toISOString();
  assertEquals(await next("every"), "2026-12-05T17:20:00.000Z");
  assertEquals(await next("cron"), "2026-12-06T03:30:00.000Z");
});

Deno.test("a schedule by cron keeps to the clock of its time zone through both changes", async () => {
  await using test = await createTimedStorage();
  await create(test, "s", { volumes: ["v"], cron: "30 2 * * *", timeZone: "Europe/Berlin" });
  const scheduler = test.createScheduler();
  const ran: string[] = [];
  for (const [from, days] of [["2027-03-26T12:00:00Z", 4], ["2027-10-29T12:00:00Z", 4]] as const) {
    test.set(from);
    await scheduler.sweep();
    for (let day = 0; day < days; day++) {
      const { nextRunAt } = await test.storage.schedules.get("s");
      test.set(nextRunAt as Date);
      assertEquals([await scheduler.sweep(), await scheduler.sweep()], [true, false]);
      ran.push((nextRunAt as Date).toISOString().slice(0, 16));
    }
  }
  assertEquals(ran, [
    "2027-03-27T01:30",
    "2027-03-28T01:00",
    "2027-03-29T00:30",
    "2027-03-30T00:30",
    "2027-10-30T00:30",
    "2027-10-31T00:30",
    "2027-11-01T01:30",
    "2027-11-02T01:30",
  ]);
});

// Pausing and changing

Deno.test("a paused schedule runs nothing, and goes on from where it is resumed", async () => {
  await using test = await createTimedStorage();
  const { schedules } = test.storage;
  await create(test, "s", { volumes: ["v"] });
  const scheduler = test.createScheduler();
  assertEquals((await schedules.change(TESTER, "s", undefined, { paused: true })).nextRunAt, undefined);
  test.set("2026-11-25T15:30:00Z");
  assertEquals(await scheduler.sweep(), false);
  const resumed = await schedules.change(TESTER, "s", undefined, { paused: false });
  assertEquals(resumed.nextRunAt, new Date("2026-11-25T16:00:00Z"));
  assertEquals(await scheduler.sweep(), false);
  test.set("2026-11-25T16:00:00Z");
  assertEquals([await scheduler.sweep(), await namesOf(test)], [true, ["s-20261125T160000Z"]]);
  const created = await create(test, "paused", { volumes: ["v"], paused: true });
  assertEquals([created.paused, created.nextRunAt], [true, undefined]);
});

Deno.test("a change replaces one way by the other, merges rules and labels, and leaves the rest", async () => {
  await using test = await createTimedStorage();
  const { schedules } = test.storage;
  const { scheduleId } = await create(test, "s", {
    volumes: ["v"],
    keep: { last: 3, daily: 7 },
    labels: { a: "1", b: "2" },
  });
  const change = (input: Parameters<typeof schedules.change>[3]) =>
    schedules.change(TESTER, "s", undefined, input);
  const timed = await change({ cron: "0 5 * * *", timeZone: "America/New_York" });
  assertEquals([timed.every, timed.nextRunAt], [undefined, new Date("2026-11-26T10:00:00Z")]);
  const chosen = await change({ label: "env=prod", keep: { last: null, weekly: 4 }, labels: { a: null } });
  assertEquals([chosen.volumeIds, chosen.label], [undefined, "env=prod"]);
  assertEquals([chosen.keep, chosen.labels], [{ daily: 7, weekly: 4 }, { b: "2" }]);
  test.set("2026-11-25T10:00:30Z");
  const again = await change({
    every: "PT1M",
    volumes: ["w"],
    keep: null,
    skipUnchanged: true,
    snapshotName: "x.{time}",
  });
  assertEquals([again.cron, again.label, again.keep, again.volumeIds?.length], [
    undefined,
    undefined,
    undefined,
    1,
  ]);
  assertEquals([again.nextRunAt, again.skipUnchanged], [new Date("2026-11-25T10:01:00Z"), true]);
  const { revision: _, ...found } = await schedules.get(scheduleId);
  assertEquals({ ...found, revision: 3 }, again);
  assertEquals((await listTold(test)).map(([type]) => type), ["created", "changed", "changed", "changed"]);
});

Deno.test("a change that comes between the look at a schedule and its run is not run over", async () => {
  for (const change of [{ paused: true }, { snapshotName: "later.{time}" }]) {
    await using test = await createTimedStorage();
    await create(test, "s", { volumes: ["v"] });
    test.set("2026-11-25T11:00:00Z");
    const late = test.createScheduler({
      runAlone: async (pool, move) => {
        await test.storage.schedules.change(TESTER, "s", pool.name, change);
        return await move();
      },
    });
    assertEquals([await late.sweep(), await namesOf(test)], [false, []]);
    assertEquals(await test.createScheduler().sweep(), "snapshotName" in change);
    assertEquals(await namesOf(test), "snapshotName" in change ? ["later.20261125T110000Z"] : []);
  }
});

Deno.test("deleting a schedule leaves its snapshots, and runs no more", async () => {
  await using test = await createTimedStorage();
  const { scheduleId } = await create(test, "s", { volumes: ["v"], keep: { last: 1 } });
  const scheduler = test.createScheduler();
  for (const hour of [11, 12]) {
    test.set(`2026-11-25T${hour}:00:00Z`);
    await scheduler.sweep();
  }
  await test.storage.schedules.delete(TESTER, "s");
  await test.drain();
  test.set("2026-11-25T13:00:00Z");
  assertEquals([await scheduler.sweep(), (await listAll(test)).length], [false, 2]);
  assertEquals(await codeOf(test.storage.schedules.get(scheduleId)), "schedule-not-found");
  assertEquals(await codeOf(test.storage.schedules.delete(TESTER, "s")), "schedule-not-found");
  assertEquals((await listTold(test)).at(-1), ["deleted", { name: "s" }]);
  // The name is free, and the next of that name touches none of them.
  await create(test, "s", { volumes: ["v"], keep: { last: 1 } });
  test.set("2026-11-25T14:00:00Z");
  assertEquals([await scheduler.sweep(), (await listAll(test)).length], [true, 3]);
});

// Run now

Deno.test("a run that is asked for is taken at once, by whoever asked, and moves no other", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  await create(test, "s", { volumes: ["v"], skipUnchanged: true, paused: true });
  const first = await storage.schedules.run(TESTER, "s");
  test.set("2026-11-25T10:00:01Z");
  const second = await storage.schedules.run(TESTER, "s");
  assertEquals([first.name, second.name], ["s-20261125T100000Z", "s-20261125T100001Z"]);
  const { clientName, origin } = await storage.getAuditRecord(second.auditId);
  assertEquals([clientName, origin], ["tester", "test"]);
  const { nextRunAt, lastRunAt, lastSnapshotId } = await storage.schedules.get("s");
  assertEquals([nextRunAt, lastRunAt, lastSnapshotId], [
    undefined,
    new Date("2026-11-25T10:00:01Z"),
    second.snapshotId,
  ]);
  assertEquals((await listTold(test)).map(([type]) => type), ["created", "ran", "ran"]);
  await create(test, "due", { volumes: ["v"] });
  await storage.schedules.run(TESTER, "due");
  assertEquals((await storage.schedules.get("due")).nextRunAt, new Date("2026-11-25T11:00:01Z"));
  test.set("2026-11-25T11:00:01Z");
  await storage.schedules.run(TESTER, "due");
  assertEquals(await test.createScheduler().sweep(), false);
});

Deno.test("runs in one second have names of their own, cut where they would be too long, be they due or asked for", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  await create(test, "s", { volumes: ["v"] });
  const long = "l".repeat(46);
  await create(test, long, { volumes: ["v"], paused: true });
  test.set("2026-11-25T11:00:00Z");
  const taken = { volumes: ["v"], name: "s-20261125T110000Z", untilSealed: false };
  await storage.takeSnapshot(TESTER, taken, AbortSignal.timeout(1e4));
  assertEquals(await test.createScheduler().sweep(), true);
  const [, due] = await listAll(test);
  assertEquals([due.name, (await storage.schedules.get("s")).lastSnapshotId], [
    "s-20261125T110000Z.2",
    due.snapshotId,
  ]);
  const [, told] = (await listTold(test)).at(-1) ?? [];
  assertEquals(told, { name: "s", snapshotName: due.name });
  const ran = await Promise.all(Array.from({ length: 3 }, () => storage.schedules.run(TESTER, "s")));
  assertEquals(ran.map(({ name }) => name).toSorted(), [3, 4, 5].map((n) => `s-20261125T110000Z.${n}`));
  for (const expected of ["20261125T110000Z", "20261125T11000.2", "20261125T11000.3"]) {
    assertEquals((await storage.schedules.run(TESTER, long)).name, `${long}-${expected}`);
  }
});

Deno.test("a run is refused when a hundred have its name in one second, and nothing is told of it", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  await create(test, "s", { volumes: ["v"] });
  for (let run = 0; run < 100; run++) await storage.schedules.run(TESTER, "s");
  assertEquals(await codeOf(storage.schedules.run(TESTER, "s")), "name-taken");
  assertEquals((await listTold(test)).length, 101);
  test.set("2026-11-25T10:00:01Z");
  assertEquals((await storage.schedules.run(TESTER, "s")).name, "s-20261125T100001Z");
});

// Labels

Deno.test("a label chooses the volumes that carry it at the time of the run; without any the run is skipped", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  await create(test, "s", { label: "env=prod" });
  const scheduler = test.createScheduler();
  const covered = async (hour: number) => {
    test.set(`2026-11-25T${hour}:00:00Z`);
    const before = (await listAll(test)).length;
    assertEquals(await scheduler.sweep(), true);
    const volumes = (await listAll(test)).slice(before).flatMap(({ volumes }) => volumes);
    return volumes.map(({ volumeId }) => volumeId).toSorted();
  };
  const [v, w] = await Promise.all(["v", "w"].map(async (name) => (await storage.getVolume(name)).volumeId));
  assertEquals(await covered(11), []);
  await storage.changeVolume(TESTER, "v", undefined, { labels: { env: "prod" } });
  assertEquals(await covered(12), [v]);
  await storage.changeVolume(TESTER, "w", undefined, { labels: { env: "prod" } });
  assertEquals(await covered(13), [v, w].toSorted());
  await storage.changeVolume(TESTER, "v", undefined, { labels: { env: "test" } });
  assertEquals(await covered(14), [w]);
  await storage.deleteVolume(TESTER, "w");
  assertEquals(await covered(15), []);
  assertEquals((await listTold(test)).filter(([type]) => type === "skipped"), [
    ["skipped", { name: "s", reason: "no-volume" }],
    ["skipped", { name: "s", reason: "no-volume" }],
  ]);
  assertEquals(await codeOf(storage.schedules.run(TESTER, "s")), "invalid-argument");
});

Deno.test("a schedule of a pool without volumes skips its run", async () => {
  await using test = await createTimedStorage();
  const pool = { name: "empty", blockSizeBytes: 512, segmentBlocks: 4, cacheBytesMax: 2 ** 20 };
  await test.storage.createPool(TESTER, pool);
  await create(test, "s", { pool: "empty" });
  test.set("2026-11-25T11:00:00Z");
  assertEquals(await test.createScheduler().sweep(), true);
  const { lastRunAt, lastSnapshotId, lastError } = await test.storage.schedules.get("s");
  assertEquals([lastRunAt, lastSnapshotId, lastError], [
    new Date("2026-11-25T11:00:00Z"),
    undefined,
    undefined,
  ]);
});

// Unchanged volumes

Deno.test("with skipUnchanged a run is skipped until a covered volume has changed, in whichever way", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  const { pool: { poolId } } = await create(test, "s", { label: "a", skipUnchanged: true });
  await storage.changeVolume(TESTER, "v", undefined, { labels: { a: "" } });
  const scheduler = test.createScheduler();
  let hour = START.getTime();
  const outcome = async () => {
    hour += 3_600_000;
    test.set(new Date(hour));
    await scheduler.sweep();
    return (await listTold(test)).at(-1)?.[0];
  };
  const last = async () => (await storage.schedules.get("s")).lastSnapshotId as string;
  assertEquals(await outcome(), "ran");
  assertEquals([await outcome(), await outcome()], ["skipped", "skipped"]);
  await write(test, "w", 0, 1);
  assertEquals(await outcome(), "skipped");
  const changes: [string, () => Promise<unknown>][] = [
    ["a write", () => write(test, "v", 0, 1)],
    ["a write to the same block", () => write(test, "v", 0, 2)],
    ["a trim", () => storage.append(TESTER, "v", undefined, [{ lba: 0, trim: 1 }])],
    ["growth", () => storage.changeVolume(TESTER, "v", undefined, { blockCount: 32 })],
    ["a revert", async () => storage.revertVolume(TESTER, "v", undefined, await last())],
    ["another volume", () => storage.changeVolume(TESTER, "w", undefined, { labels: { a: "" } })],
    ["one of the volumes", () => write(test, "w", 3, 3)],
    ["that the last snapshot is gone", async () => storage.deleteSnapshot(TESTER, await last())],
  ];
  for (const [what, change] of changes) {
    await test.drain();
    await change();
    assertEquals([what, await outcome()], [what, "ran"]);
    assertEquals([what, await outcome()], [what, "skipped"]);
    await test.drain();
    assertEquals([what, await outcome()], [what, "skipped"]);
  }
  // A snapshot by somebody else closes epochs too, and changes nothing.
  await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, AbortSignal.timeout(1e4));
  assertEquals(await outcome(), "skipped");
  assertEquals((await storage.listEvents(poolId, { types: ["schedule.failed"] }, 0, 10)).length, 0);
});

// Failures

Deno.test("a run that fails is shown and told, and holds up neither others nor the next one", async () => {
  await using test = await createTimedStorage();
  const { storage } = test;
  await create(test, "a", { volumes: ["v", "w"], skipUnchanged: true });
  await create(test, "b", { volumes: ["v"], snapshotName: "b.{time}" });
  await create(test, "c", { volumes: ["v"] });
  await storage.deleteVolume(TESTER, "w");
  for (const number of ["", ...Array.from({ length: 99 }, (_, index) => `.${index + 2}`)]) {
    const taken = { volumes: ["v"], name: `b.20261125T110000Z${number}`, untilSealed: false };
    await storage.takeSnapshot(TESTER, taken, AbortSignal.timeout(1e4));
  }
  test.set("2026-11-25T11:00:00Z");
  const scheduler = test.createScheduler();
  assertEquals([await scheduler.sweep(), await scheduler.sweep()], [true, false]);
  const errorOf = async (name: string) =>
    (await storage.schedules.get(name)).lastError?.replace(/[0-9a-f-]{36}/, "ID");
  assertEquals(await errorOf("a"), "Cannot find volume ID");
  assertEquals(await errorOf("b"), "Cannot take snapshot b.20261125T110000Z: the pool has one of that name");
  assertEquals([await errorOf("c"), (await listAll(test)).length], [undefined, 101]);
  const failed = (await listTold(test)).filter(([type]) => type === "failed");
  assertEquals(failed.map(([, { name }]) => name).toSorted(), ["a", "b"]);
  const { lastRunAt, nextRunAt } = await storage.schedules.get("a");
  assertEquals([lastRunAt, nextRunAt], [new Date("2026-11-25T11:00:00Z"), new Date("2026-11-25T12:00:00Z")]);
  test.set("2026-11-25T12:00:00Z");
  await storage.schedules.change(TESTER, "a", undefined, { volumes: ["v"] });
  await scheduler.sweep();
  assertEquals([await errorOf("a"), await errorOf("b"), (await listAll(test)).length], [
    undefined,
    undefined,
    104,
  ]);
});

Deno.test("a fault of the program is told, ends that run, and holds up no other", async () => {
  await using test = await createTimedStorage();
  await create(test, "a", { volumes: ["v"] });
  await create(test, "b", { volumes: ["v"] });
  test.set("2026-11-25T11:00:00Z");
  let faults = 0;
  const scheduler = test.createScheduler({
    onPoint: (point) => {
      if (point === "placed" && faults++ === 0) throw new TypeError("a fault");
    },
  });
  await assertRejects(() => scheduler.sweep(), TypeError, "a fault");
  const states = await Promise.all(["a", "b"].map((name) => test.storage.schedules.get(name)));
  assertEquals(states.map(({ lastError }) => lastError).toSorted(), [
    "The server failed at this run; its log has the details",
    undefined,
  ]);
  assertEquals((await listAll(test)).length, 1);
  assertEquals(await scheduler.sweep(), false);
});

Deno.test("a label that more volumes carry than the bound fails the run", async () => {
  await using test = await createTimedStorage({ limits: { scheduleVolumesMax: 2 } });
  for (const name of ["v", "w"]) {
    await test.storage.changeVolume(TESTER, name, undefined, { labels: { a: "" } });
  }
  await create(test, "s", { label: "a" });
  const scheduler = test.createScheduler();
  test.set("2026-11-25T11:00:00Z");
  await scheduler.sweep();
  assertEquals((await listAll(test)).length, 1);
  await test.storage.createVolume(TESTER, { name: "x", blockCount: 8, labels: { a: "" } });
  test.set("2026-11-25T12:00:00Z");
  await scheduler.sweep();
  const { lastError } = await test.storage.schedules.get("s");
  assertEquals([lastError, (await listAll(test)).length], [
    "Cannot run schedule s: more than 2 volumes carry its label",
    1,
  ]);
});

// Creation

Deno.test("what is no schedule is refused, and so is one too many, also by two processes at once", async () => {
  await using test = await createTimedStorage({ limits: { schedulesMax: 3, scheduleVolumesMax: 2 } });
  const { storage } = test;
  const bad: [Partial<NewSchedule>, string][] = [
    [{ volumes: ["v"], label: "a" }, "invalid-argument"],
    [{ volumes: ["v", "v"] }, "invalid-argument"],
    [{ volumes: ["no"] }, "volume-not-found"],
    [{ pool: "no" }, "pool-not-found"],
    [{ label: "no key" }, "invalid-argument"],
    [{ snapshotName: "same" }, "invalid-argument"],
    [{ snapshotName: "-{time}" }, "invalid-argument"],
    [{ snapshotName: "{time}{volume}" }, "invalid-argument"],
    [{ snapshotName: "x".repeat(50) + "{time}" }, "invalid-argument"],
    [{ labels: { "no key": "" } }, "invalid-argument"],
    [{ keep: {} }, "invalid-argument"],
    [{ cron: "* * *" }, "invalid-argument"],
    [{ every: "PT1S" }, "invalid-argument"],
    [{ timeZone: "Nowhere" }, "invalid-argument"],
  ];
  for (const [settings, code] of bad) {
    assertEquals([settings, await codeOf(create(test, "s", settings))], [settings, code]);
  }
  for (const name of ["", "a b", "x".repeat(64), crypto.randomUUID()]) {
    assertEquals(await codeOf(create(test, name)), "invalid-argument");
  }
  assertEquals(await listTold(test), []);
  const { poolId } = await storage.getPool("main");
  const { volumeId } = await storage.createVolume(TESTER, { name: "x", blockCount: 8 });
  assertEquals(await codeOf(create(test, "s", { volumes: ["v", "w", volumeId] })), "invalid-argument");
  const other = await test.openAnother({ limits: { schedulesMax: 3 } });
  const outcomes = await Promise.allSettled(
    Array.from(
      { length: 6 },
      (_, i) =>
        (i % 2 === 0 ? storage : other).schedules.create(TESTER, {
          name: `s${i}`,
          pool: poolId,
          ...SETTINGS,
        }),
    ),
  );
  assertEquals(outcomes.filter(({ status }) => status === "fulfilled").length, 3);
  const { items } = await storage.schedules.list("main", { itemsMax: 10 });
  assertEquals(items.length, 3);
  await storage.schedules.delete(TESTER, items[0].scheduleId);
  assertEquals(await codeOf(create(test, items[1].name)), "name-taken");
});

// The worker

Deno.test("a storage system with a flusher runs schedules by itself, and wakes for a new one", async () => {
  let now = START;
  await using test = await createTestStorage({
    flusher: true,
    clock: () => now,
    limits: { schedulePollMs: 5 },
  });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await create(test, "s", { volumes: ["v"] });
  now = new Date("2026-11-25T11:00:00Z");
  await until(async () => (await listAll(test)).some(({ status }) => status === "sealed"));
  assertEquals(await namesOf(test), ["s-20261125T110000Z"]);
});

Deno.test("a clock that was ahead for a while costs no runs: set back, the next is due as it was", async () => {
  await using test = await createTimedStorage();
  await create(test, "s");
  const scheduler = test.createScheduler();
  await scheduler.sweep();
  const next = async () => (await test.storage.schedules.get("s")).nextRunAt?.toISOString();
  assertEquals(await next(), "2026-11-25T11:00:00.000Z");

  test.set("2026-11-25T15:30:00Z");
  while (await scheduler.sweep());
  assertEquals((await namesOf(test)).length, 1);
  assertEquals(await next(), "2026-11-25T16:00:00.000Z");
  // By the process that was ahead, and by one that was not there.
  for (const looking of [scheduler, test.createScheduler()]) {
    test.set("2026-11-25T10:30:00Z");
    await test.test.database.$client`update schedules set next_run_at = '2026-11-25T16:00:00Z'`;
    await looking.sweep();
    assertEquals(await next(), "2026-11-25T11:00:00.000Z");
    test.set("2026-11-25T15:30:00Z");
  }
});
