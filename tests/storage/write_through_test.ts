import { assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { transact } from "../../src/database/client.ts";
import { checkWrites } from "../../src/storage/append.ts";
import { Appender } from "../../src/storage/appender.ts";
import type { CacheMode } from "../../src/storage/cache_mode.ts";
import { verifyChain } from "../../src/storage/audit_chain.ts";
import { THROUGH_BLOCKS_MAX } from "../../src/storage/write_through.ts";
import { until } from "../support/door.ts";
import { readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

async function prepare(mode: CacheMode, options: Parameters<typeof createTestStorage>[0] = {}) {
  const test = await createTestStorage(options);
  await test.storage.changePool(TESTER, "main", { cacheMode: mode });
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 20_000 });
  return test;
}

async function stampsOf({ storage }: TestStorage, lba: number, blockCount: number) {
  return readStamps(await storage.readVolume("v", undefined, { lba, blockCount }), BLOCK_BYTES);
}

async function take({ storage }: TestStorage, untilSealed: boolean) {
  return await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed }, AbortSignal.timeout(60_000));
}

async function positionsOf({ storage }: TestStorage) {
  const { dirtyEntries, dirtyBytes, sequenceAppended, sequenceFlushed } = await storage.getPool("main");
  return { dirtyEntries, dirtyBytes, sequenceAppended, sequenceFlushed };
}

Deno.test("a write-through append puts blocks where a flush would, with their sequences, and leaves nothing dirty", async () => {
  await using test = await prepare("write-through");
  await test.storage.append(TESTER, "v", undefined, [write(2, 1, 4), write(3, 50), { lba: 5, trim: 1 }]);
  const { sequence } = await test.storage.append(TESTER, "v", undefined, [write(4, 60, 2)]);
  const rows = await test.test.database.$client<{ block_index: number; sequence: number; bytes: number }[]>`
    select block_index, sequence, octet_length(data) as bytes from blocks order by segment_id, block_index`;
  assertEquals(rows.map((row) => [row.block_index, row.sequence, row.bytes]), [
    [2, 1, BLOCK_BYTES],
    [3, 3, BLOCK_BYTES],
    [0, 5, BLOCK_BYTES],
    [1, 5, BLOCK_BYTES],
  ]);
  const [{ queued }] = await test.test.database.$client`select count(*) as queued from cache`;
  assertEquals([queued, sequence], [0, 5]);
  assertEquals(await positionsOf(test), {
    dirtyEntries: 0,
    dirtyBytes: 0,
    sequenceAppended: 5,
    sequenceFlushed: 5,
  });
  assertEquals(await stampsOf(test, 1, 6), [0, 1, 50, 60, 61, 0]);
  assertEquals(await test.createFlusher().sweep(), false);
});

Deno.test("a trim that is written through reads as zeros, also one that finds nothing", async () => {
  await using test = await prepare("write-through");
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await test.storage.append(TESTER, "v", undefined, [{ lba: 1, trim: 6 }, { lba: 100, trim: 3 }]);
  assertEquals(await stampsOf(test, 0, 8), [1, 0, 0, 0, 0, 0, 0, 8]);
  assertEquals((await positionsOf(test)).sequenceAppended, 5);
});

for (const untilSealed of [false, true]) {
  Deno.test(`a write-through snapshot is sealed in its own answer, ${untilSealed ? "waited for" : "IMMED"}, without a flusher`, async () => {
    await using test = await prepare("write-through");
    const { storage } = test;
    await storage.append(TESTER, "v", undefined, [write(0, 1)]);
    const snapshot = await take(test, untilSealed);
    await storage.append(TESTER, "v", undefined, [write(0, 2)]);
    assertEquals([snapshot.status, snapshot.sequence], ["sealed", 2]);
    assertEquals(snapshot.progress, { entriesAhead: 0, bytesAhead: 0, bytesPerSecond: 0 });
    assertEquals(snapshot.sealedAt, snapshot.createdAt);
    const range = { lba: 0, blockCount: 1 };
    const bytes = await storage.readSnapshot(snapshot.snapshotId, undefined, undefined, range);
    assertEquals([readStamps(bytes, BLOCK_BYTES), await stampsOf(test, 0, 1)], [[1], [2]]);
    const { poolId } = snapshot.pool;
    const events = await storage.listEvents(poolId, { snapshotId: snapshot.snapshotId }, 0, 9);
    assertEquals(events.map(({ type }) => type), ["marker.committed", "snapshot.sealed"]);
    const { command } = await storage.getAuditRecord(snapshot.auditId);
    assertEquals(command?.scsiStatus, "GOOD");
    assertEquals(command?.phases.map(({ phase }) => phase).slice(-3), ["STATUS", "MESSAGE IN", "BUS FREE"]);
    const { fault } = await verifyChain(test.test.database, poolId, { rowsMax: 100 });
    assertEquals([fault, (await positionsOf(test)).dirtyEntries], [undefined, 0]);
  });
}

Deno.test("what is cached when the mode changes to write-through never replaces what is written through, and is flushed", async () => {
  await using test = await prepare("write-back");
  const { storage } = test;
  await storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await storage.changePool(TESTER, "main", { cacheMode: "write-through" });
  await storage.append(TESTER, "v", undefined, [write(2, 50, 4)]);
  const expected = [1, 2, 50, 51, 52, 53, 7, 8];
  assertEquals(await stampsOf(test, 0, 8), expected);
  const pending = await take(test, false);
  assertEquals([pending.status, pending.progress.entriesAhead], ["pending", 2]);
  await storage.append(TESTER, "v", undefined, [write(0, 90)]);
  await test.drain();
  assertEquals(await stampsOf(test, 0, 8), [90, ...expected.slice(1)]);
  const range = { lba: 0, blockCount: 8 };
  const bytes = await storage.readSnapshot(pending.snapshotId, undefined, undefined, range);
  assertEquals(readStamps(bytes, BLOCK_BYTES), expected);
  assertEquals((await storage.getSnapshot(pending.snapshotId)).status, "sealed");
  assertEquals((await take(test, false)).status, "sealed");
  await storage.changePool(TESTER, "main", { cacheMode: "write-back" });
  await storage.append(TESTER, "v", undefined, [write(1, 99)]);
  const { dirtyEntries, sequenceAppended, sequenceFlushed } = await positionsOf(test);
  assertEquals([dirtyEntries, sequenceAppended - sequenceFlushed > 0], [1, true]);
  await test.drain();
  assertEquals((await positionsOf(test)).sequenceFlushed, sequenceAppended);
});

Deno.test("another process obeys a change of the mode with its next write", async () => {
  await using test = await prepare("write-back");
  const other = await test.openAnother();
  for (let lba = 0; lba < 3; lba++) await other.append(TESTER, "v", undefined, [write(lba, 1)]);
  await test.storage.changePool(TESTER, "main", { cacheMode: "write-through" });
  for (let lba = 0; lba < 3; lba++) await other.append(TESTER, "v", undefined, [write(lba, 7)]);
  assertEquals((await positionsOf(test)).dirtyEntries, 3);
  await test.storage.changePool(TESTER, "main", { cacheMode: "write-back" });
  await other.append(TESTER, "v", undefined, [write(9, 8)]);
  assertEquals((await positionsOf(test)).dirtyEntries, 4);
  assertEquals(await stampsOf(test, 0, 3), [7, 7, 7]);
});

Deno.test("what would hold up a write-through pool for long goes through the cache", async () => {
  await using test = await prepare("write-through");
  const trim = THROUGH_BLOCKS_MAX + 1;
  for (let lba = 0; lba < trim; lba += 1_000) {
    await test.storage.append(TESTER, "v", undefined, [write(lba, 1)]);
  }
  await test.storage.append(TESTER, "v", undefined, [{ lba: 0, trim: trim - 1 }]);
  assertEquals((await positionsOf(test)).dirtyEntries, 0);
  await test.storage.append(TESTER, "v", undefined, [{ lba: 0, trim }]);
  assertEquals((await positionsOf(test)).dirtyEntries, 9);
  await test.drain();
  assertEquals(await stampsOf(test, 0, 1), [0]);
});

Deno.test("the cache's bound refuses and slows nothing that is written through", async () => {
  await using test = await prepare("write-through", {
    cacheBytesMax: 4 * BLOCK_BYTES,
    limits: { slowMsMax: 3_600_000 },
  });
  for (let lba = 0; lba < 50; lba += 5) await test.storage.append(TESTER, "v", undefined, [write(lba, 1, 5)]);
  assertEquals(await stampsOf(test, 45, 5), [1, 2, 3, 4, 5]);
});

Deno.test("an append that writes through and who moves blocks never wait for each other in a circle", async () => {
  await using test = await prepare("write-through");
  await test.storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const { $client } = test.test.database;
  const isWaiting = async () =>
    (await $client`select from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`).length > 0;
  const appended = await transact(test.test.database, async (tx) => {
    // As reclaim does: first a block of the open epoch's segment, then the counters of its device.
    await tx.$client`
      insert into blocks (pool_id, device_id, segment_id, block_index, sequence)
      select pool_id, device_id, segment_id, 1, 0 from blocks`;
    const appending = test.storage.append(TESTER, "v", undefined, [write(0, 5, 8)]);
    await until(isWaiting);
    // Shorter than PostgreSQL takes to find a circle, which it breaks.
    await tx.$client`set local lock_timeout = '500ms'`;
    await tx.$client`update devices set segments_returned = segments_returned`;
    return { appending };
  });
  await appended.appending;
  assertEquals(await stampsOf(test, 0, 8), [5, 6, 7, 8, 9, 10, 11, 12]);
});

Deno.test("writes that together are more than is written through at once meet no cache, also as the first ones of a process", async () => {
  await using test = await prepare("write-through", { cacheBytesMax: 2 ** 20 });
  const { volumeId, pool } = await test.storage.getVolume("v");
  const appender = new Appender(test.test.database, pool, STORAGE_LIMITS, () => new Date(), () => {});
  const blockCount = THROUGH_BLOCKS_MAX / 2;
  const append = (lba: number) => {
    const writes = checkWrites([write(lba, 1, blockCount)], pool);
    const sizeBytes = blockCount * BLOCK_BYTES;
    return appender.append({ ...TESTER, volumeId, writes, sizeBytes, weightBytes: sizeBytes });
  };
  await Promise.all([append(0), append(blockCount), append(2 * blockCount)]);
  assertEquals((await positionsOf(test)).dirtyEntries, 0);
});

Deno.test("the flushed position of a pool never goes back behind what was written through", async () => {
  await using test = await prepare("write-through");
  for (let stamp = 1; stamp <= 5; stamp++) {
    await test.storage.append(TESTER, "v", undefined, [write(0, stamp)]);
  }
  await test.storage.changePool(TESTER, "main", { cacheMode: "write-back" });
  assertEquals((await positionsOf(test)).sequenceFlushed, 5);
  await test.storage.append(TESTER, "v", undefined, [write(0, 6)]);
  assertEquals((await positionsOf(test)).sequenceFlushed, 5);
  await test.drain();
  assertEquals((await positionsOf(test)).sequenceFlushed, 6);
});
