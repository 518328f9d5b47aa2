import { assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { StorageError } from "../../src/errors.ts";
import { decodeSnapshotCdb, formatHex } from "../../src/scsi/cdb.ts";
import { MARKER_PAYLOAD } from "../../src/storage/cache.ts";
import { below, History, readStamps, seeded } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

/** So that a history meets many states between two steps. */
const TINY_STEPS = { ...STORAGE_LIMITS, flushBatchEntriesMax: 3, flushBatchBytesMax: 6 * BLOCK_BYTES };
const signal = AbortSignal.timeout(60_000);

function take({ storage }: TestStorage, volumes: string[], name?: string) {
  return storage.takeSnapshot(TESTER, {
    volumes,
    untilSealed: false,
    ...(name === undefined ? {} : { name }),
  }, signal);
}

async function stampsOf(
  { storage }: TestStorage,
  snapshot: string,
  lba: number,
  blockCount: number,
  volume?: string,
) {
  return readStamps(
    await storage.readSnapshot(snapshot, undefined, volume, { lba, blockCount }),
    BLOCK_BYTES,
  );
}

async function rejectsWith(code: string, promise: Promise<unknown>): Promise<void> {
  const error = await assertRejects(() => promise, StorageError);
  assertEquals((error as StorageError).code, code);
}

Deno.test("takeSnapshot() excludes a write appended after its marker, includes all before, sealed or not", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 16 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 4)]);
  const snapshot = await take(test, ["v"], "s");
  await test.storage.append(TESTER, "v", undefined, [write(2, 50, 4)]);
  assertEquals([snapshot.sequence, snapshot.status], [2, "pending"]);
  assertEquals(await stampsOf(test, "s", 0, 8), [1, 2, 3, 4, 0, 0, 0, 0]);
  await test.drain();
  assertEquals((await test.storage.getSnapshot("s")).status, "sealed");
  assertEquals(await stampsOf(test, "s", 0, 8), [1, 2, 3, 4, 0, 0, 0, 0]);
});

Deno.test("takeSnapshot() tells what is ahead of the marker, and the flusher brings it to nothing", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  for (let lba = 0; lba < 5; lba++) await test.storage.append(TESTER, "v", undefined, [write(lba, 1)]);
  const { progress } = await take(test, ["v"], "s");
  assertEquals([progress.entriesAhead, progress.bytesAhead], [5, 5 * BLOCK_BYTES]);
  await test.drain();
  const sealed = await test.storage.getSnapshot("s");
  assertEquals([sealed.progress.entriesAhead, sealed.progress.bytesAhead], [0, 0]);
});

Deno.test("takeSnapshot() of several volumes is one cut, and of a pool covers every volume", async () => {
  await using test = await createTestStorage();
  const ids: string[] = [];
  for (const name of ["a", "b", "c"]) {
    ids.push((await test.storage.createVolume(TESTER, { name, blockCount: 4 })).volumeId);
    await test.storage.append(TESTER, name, undefined, [write(0, ids.length)]);
  }
  const both = await take(test, ["a", "c"], "both");
  const all = await test.storage.takeSnapshot(
    TESTER,
    { pool: "main", name: "all", untilSealed: false },
    signal,
  );
  assertEquals(both.volumes.map((volume) => [volume.volumeId, volume.epoch]), [[ids[0], 0], [ids[2], 0]]);
  assertEquals(all.volumes.map((volume) => [volume.volumeId, volume.epoch]), [[ids[0], 1], [ids[1], 0], [
    ids[2],
    1,
  ]]);
  assertEquals(await stampsOf(test, "both", 0, 1, "c"), [3]);
  await rejectsWith("outside-snapshot", stampsOf(test, "both", 0, 1, "b"));
  await rejectsWith("invalid-argument", stampsOf(test, "both", 0, 1));
});

Deno.test("takeSnapshot() of a range covers just that", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 20)]);
  const input = { volumes: ["v"], lba: 10, blockCount: 5, untilSealed: false };
  const snapshot = await test.storage.takeSnapshot(TESTER, input, signal);
  assertEquals(formatHex(snapshot.cdb), "c1010000000a00000500");
  assertEquals(await stampsOf(test, snapshot.snapshotId, 10, 5), [11, 12, 13, 14, 15]);
  for (const [lba, blockCount] of [[9, 1], [10, 6], [15, 1], [0, 100]]) {
    await rejectsWith("outside-snapshot", stampsOf(test, snapshot.snapshotId, lba, blockCount));
  }
  const toEnd = await test.storage.takeSnapshot(TESTER, {
    volumes: ["v"],
    lba: 90,
    blockCount: 0,
    untilSealed: false,
  }, signal);
  assertEquals(toEnd.volumes[0].ranges, [{ lba: 90, blockCount: 10 }]);
  await rejectsWith("lba-out-of-range", test.storage.takeSnapshot(TESTER, { ...input, lba: 99 }, signal));
});

Deno.test("takeSnapshot() keeps the size that the volume had", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await take(test, ["v"], "s");
  await test.storage.changeVolume(TESTER, "v", undefined, { blockCount: 16 });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 16)]);
  assertEquals(await stampsOf(test, "s", 0, 8), [0, 0, 0, 0, 0, 0, 0, 0]);
  await rejectsWith("outside-snapshot", stampsOf(test, "s", 8, 1));
});

Deno.test("takeSnapshot() that is refused leaves neither marker nor record nor event", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await take(test, ["v"], "taken");
  const count = async () => {
    const [row] = await test.test.database.$client`
      select (select count(*) from audit) as audit, (select count(*) from events) as events,
        (select count(*) from cache) as cache, (select count(*) from snapshots) as snapshots,
        (select sum(sequence_appended)::bigint from pool_heads) as sequence, (select sum(open_epoch)::bigint from timelines) as epoch`;
    return { ...row };
  };
  const before = await count();
  await rejectsWith("name-taken", take(test, ["v"], "taken"));
  await rejectsWith("volume-not-found", take(test, ["nobody"], "s"));
  await rejectsWith(
    "lba-out-of-range",
    test.storage.takeSnapshot(TESTER, { volumes: ["v"], lba: 8, blockCount: 1, untilSealed: false }, signal),
  );
  await rejectsWith(
    "cdb-field-invalid",
    test.storage.takeSnapshot(TESTER, { lba: 1, blockCount: 1, untilSealed: false }, signal),
  );
  await rejectsWith(
    "cdb-opcode-unknown",
    test.storage.executeCommand(TESTER, { cdb: new Uint8Array(6), volume: "v" }, signal),
  );
  assertEquals(await count(), before);
});

Deno.test("takeSnapshot() without IMMED is disconnected at the marker and reselected at the seal", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  const sealed = storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: true }, signal);
  const phasesOf = async () =>
    (await storage.listAudit({ itemsMax: 100 })).items.at(-1)?.command?.phases.map(({ phase }) => phase);
  while ((await storage.getPool("main")).dirtyEntries === 0) await storage.listPools({ itemsMax: 1 });
  const disconnected = ["BUS FREE", "ARBITRATION", "SELECTION", "COMMAND", "MESSAGE IN", "BUS FREE"];
  assertEquals(await phasesOf(), disconnected);
  await test.drain();
  const snapshot = await sealed;
  assertEquals([snapshot.status, decodeSnapshotCdb(snapshot.cdb).immed], ["sealed", false]);
  assertEquals(await phasesOf(), [
    ...disconnected,
    "ARBITRATION",
    "RESELECTION",
    "STATUS",
    "MESSAGE IN",
    "BUS FREE",
  ]);
  assertEquals((await storage.getAuditRecord(snapshot.auditId)).command?.scsiStatus, "GOOD");
});

Deno.test("a block that holds the marker's payload is an ordinary block", async () => {
  await using test = await createTestStorage();
  const data = new Uint8Array(BLOCK_BYTES);
  for (let at = 0; at + MARKER_PAYLOAD.length <= data.length; at += MARKER_PAYLOAD.length) {
    data.set(MARKER_PAYLOAD, at);
  }
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await test.storage.append(TESTER, "v", undefined, [{ lba: 3, data }]);
  const { progress } = await take(test, ["v"], "s");
  assertEquals(progress.entriesAhead, 1);
  await test.drain();
  assertEquals(await test.storage.readVolume("v", undefined, { lba: 3, blockCount: 1 }), data);
  assertEquals((await test.storage.listSnapshots({}, { itemsMax: 10 })).items.length, 1);
});

Deno.test("takeSnapshot() waits for no flush: a stopped flusher and a standing queue hold up neither it nor writes", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database } } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 5000 });
  for (let lba = 0; lba < 5000; lba += 500) {
    await storage.append(TESTER, "v", undefined, [write(lba, 1, 500)]);
  }
  // A flusher in the middle of its step holds the tail and 1,250 rows of the cache.
  const held = Promise.withResolvers<void>();
  const holding = Promise.withResolvers<void>();
  const flusher = test.createFlusher({
    onPoint: async (point) => {
      if (point !== "deleted") return;
      holding.resolve();
      await held.promise;
    },
  });
  const sweeping = flusher.sweep();
  await holding.promise;
  await take(test, ["v"], "s");
  const { sequence } = await storage.append(TESTER, "v", undefined, [write(0, 9)]);
  const [row] = await database.$client`select sequence_flushed from pool_tails`;
  assertEquals([sequence, row.sequence_flushed], [1252, 0]);
  held.resolve();
  await sweeping;
  assertEquals(await stampsOf(test, "s", 0, 1), [1]);
});

for (const seed of [1, 2, 3]) {
  Deno.test(`a random history equals its replay at every marker, live and after every flush step (seed ${seed})`, async () => {
    const blockCount = 64;
    const random = seeded(seed);
    await using test = await createTestStorage();
    const { storage } = test;
    const histories = new Map(["a", "b"].map((name) => [name, new History(blockCount)]));
    for (const name of histories.keys()) await storage.createVolume(TESTER, { name, blockCount });
    const flusher = test.createFlusher({ limits: TINY_STEPS });
    const cuts: { id: string; sequence: number; volumes: string[] }[] = [];
    let stamp = 1;
    for (let step = 0; step < 300; step++) {
      const name = random() < 0.5 ? "a" : "b";
      const dice = random();
      if (dice < 0.6) {
        const lba = below(random, blockCount - 12);
        const count = 1 + below(random, 12);
        const { sequence } = await storage.append(TESTER, name, undefined, [write(lba, stamp, count)]);
        histories.get(name)?.add(sequence, [{ lba, blockCount: count, firstStamp: stamp }]);
        stamp += count;
      } else if (dice < 0.7) {
        const lba = below(random, blockCount - 12);
        const trim = 1 + below(random, 12);
        const { sequence } = await storage.append(TESTER, name, undefined, [{ lba, trim }]);
        histories.get(name)?.add(sequence, [{ lba, trim }]);
      } else if (dice < 0.8) {
        const volumes = random() < 0.5 ? [name] : ["a", "b"];
        const { snapshotId: id, sequence } = await take(test, volumes);
        cuts.push({ id, sequence, volumes });
      } else {
        await flusher.sweep();
      }
    }
    const range = { lba: 0, blockCount };
    const verify = async () => {
      for (const [name, history] of histories) {
        history.assertReplay(await storage.readVolume(name, undefined, range), BLOCK_BYTES);
      }
      for (const { id, sequence, volumes } of cuts) {
        for (const name of volumes) {
          const bytes = await storage.readSnapshot(id, undefined, name, range);
          histories.get(name)?.assertReplay(bytes, BLOCK_BYTES, sequence);
        }
      }
    };
    await verify();
    await test.drain();
    await verify();
    const statuses = (await storage.listSnapshots({}, { itemsMax: 1000 })).items.map(({ status }) => status);
    assertEquals(statuses, cuts.map(() => "sealed"));
  });
}

Deno.test("takeSnapshot() and writes take turns: many snapshots at once hold up no write", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 10 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const take = () =>
    storage.takeSnapshot(TESTER, { pool: "main", untilSealed: false }, AbortSignal.timeout(60_000));
  const snapshots = Array.from({ length: 60 }, take);
  await Promise.race(snapshots);
  const { sequence } = await storage.append(TESTER, "v", undefined, [write(0, 2)]);
  const sequences = (await Promise.all(snapshots)).map((snapshot) => snapshot.sequence);
  assertEquals(sequences.filter((one) => one < sequence).length < 20, true, `${sequence}`);
  assertEquals(new Set([...sequences, sequence]).size, 61);
});
