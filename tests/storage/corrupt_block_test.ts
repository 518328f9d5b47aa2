/** Blocks that are not as they were written are never read: by no way, and nothing else suffers. */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { StorageError } from "../../src/errors.ts";
import { Appender } from "../../src/storage/appender.ts";
import { Copier } from "../../src/storage/copier.ts";
import { StagedWriter } from "../../src/storage/staged_writer.ts";
import { beginStaging } from "../../src/storage/staging.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { damage, DAMAGES } from "../support/damage.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const BLOCKS = 16;

/** Volume `v`, 1 to 16 in its blocks, and snapshot `s` of it. Segments 0 to 3, sequences 1 to 4. */
async function createFilled(): Promise<TestStorage> {
  const test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  await test.storage.append(TESTER, "v", undefined, [write(0, 1, BLOCKS)]);
  await test.storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], name: "s", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  return test;
}

async function refusal(reading: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => reading, StorageError);
  assertEquals((error as StorageError).code, "data-corrupt");
  return (error as StorageError).message;
}

/** Every way to read blocks `[lba, lba + blockCount)`. */
function waysOf(
  storage: Storage,
  lba: number,
  blockCount: number,
): Record<string, () => Promise<Uint8Array>> {
  const range = { lba, blockCount };
  return {
    "readVolume()": () => storage.readVolume("v", undefined, range),
    "readSnapshot()": () => storage.readSnapshot("s", undefined, undefined, range),
    "openImage()": async () => await (await storage.openImage("s", undefined, undefined)).read(range),
    "openDifference()": async () =>
      (await (await storage.openDifference("s", undefined, undefined, undefined)).read(range)).bytes,
  };
}

for (const [what, { queued, flushed }] of Object.entries(DAMAGES)) {
  for (const [table, set] of [["cache", queued], ["blocks", flushed]] as const) {
    if (set === undefined) continue;
    Deno.test(`a block is refused, and all others are read, when ${what} is changed in ${table}`, async () => {
      await using test = await createFilled();
      const { storage } = test;
      if (table === "blocks") await test.drain();
      await damage(test.test.database, table, 5, set);
      const place = `device main-1, segment 1, block 1, sequence 2, ${
        table === "cache" ? "in the cache" : "flushed"
      }: `;
      for (const [way, read] of Object.entries(waysOf(storage, 4, 4))) {
        const message = await refusal(read());
        assertEquals(
          message.startsWith("Cannot read LBA 5: its data are not as they were written"),
          true,
          way,
        );
        assertEquals(message.includes(place), true, message);
      }
      for (const [lba, count] of [[0, 5], [6, 10]]) {
        for (const read of Object.values(waysOf(storage, lba, count))) {
          assertEquals(
            readStamps(await read(), BLOCK_BYTES),
            Array.from({ length: count }, (_, index) => lba + index + 1),
          );
        }
      }
    });
  }
}

Deno.test("reads that come together with one of a corrupt block are answered", async () => {
  await using test = await createFilled();
  await test.drain();
  await damage(test.test.database, "blocks", 5, DAMAGES["a bit of it"].flushed);
  const reads = Array.from(
    { length: BLOCKS },
    (_, lba) => test.storage.readVolume("v", undefined, { lba, blockCount: 1 }),
  );
  const answers = await Promise.allSettled(reads);
  assertEquals(
    answers.map((answer, lba) =>
      answer.status === "rejected" ? answer.reason.code : readStamps(answer.value, BLOCK_BYTES)[0] === lba + 1
    ),
    Array.from({ length: BLOCKS }, (_, lba) => lba === 5 ? "data-corrupt" : true),
  );
});

Deno.test("a read behind the volume's end is refused for that, and one of several corrupt blocks tells how many", async () => {
  await using test = await createFilled();
  const { storage } = test;
  await test.drain();
  for (const lba of [5, 6, 9]) {
    await damage(test.test.database, "blocks", lba, DAMAGES["a bit of it"].flushed);
  }
  const behind = await assertRejects(
    () => storage.readVolume("v", undefined, { lba: 0, blockCount: BLOCKS + 1 }),
    StorageError,
  );
  assertEquals((behind as StorageError).code, "lba-out-of-range");
  const message = await refusal(storage.readVolume("v", undefined, { lba: 0, blockCount: BLOCKS }));
  assertMatch(message, /^Cannot read LBA 5: .*so are 2 more of what was asked for$/);
});

Deno.test("a block that is damaged in the cache stays so when it is flushed", async () => {
  await using test = await createFilled();
  await damage(test.test.database, "cache", 5, DAMAGES["a bit of it"].queued as string);
  await test.drain();
  assertMatch(
    await refusal(test.storage.readVolume("v", undefined, { lba: 5, blockCount: 1 })),
    /, flushed: /,
  );
});

Deno.test("what was written before there were checksums is read, in the cache and flushed", async () => {
  await using test = await createFilled();
  const { storage, test: { database } } = test;
  const expected = Array.from({ length: BLOCKS }, (_, index) => index + 1);
  const read = async () =>
    readStamps(await storage.readVolume("v", undefined, { lba: 0, blockCount: BLOCKS }), BLOCK_BYTES);
  await database.$client`update cache set checksums = null`;
  assertEquals(await read(), expected);
  await test.drain();
  const [{ unchecked }] = await database.$client`
    select count(*) as unchecked from blocks where checksum is null and data is not null`;
  assertEquals(unchecked, BLOCKS);
  assertEquals(await read(), expected);
});

Deno.test("the pieces of a difference end before a corrupt block", async () => {
  await using test = await createFilled();
  await test.drain();
  await damage(test.test.database, "blocks", 5, DAMAGES["a bit of it"].flushed);
  const { pieces } = await test.storage.openDifference("s", undefined, undefined, undefined);
  const seen: number[] = [];
  const reading = (async () => {
    for await (const { lba } of pieces()) seen.push(lba);
  })();
  await refusal(reading);
  assertEquals(seen, []);
});

for (const phase of ["copying", "digesting", "verifying"] as const) {
  Deno.test(`a copy that meets a corrupt block while ${phase} fails and tells of it`, async () => {
    await using test = await createFilled();
    const { storage, test: { database } } = test;
    await storage.createPool(TESTER, {
      name: "vault",
      blockSizeBytes: BLOCK_BYTES,
      segmentBlocks: 4,
      cacheBytesMax: 2 ** 20,
    });
    await storage.addDevice(TESTER, { name: "vault-1", pool: "vault", blockCount: 400 });
    await test.drain();
    const { copyId } = await storage.copies.create(TESTER, {
      snapshot: "s",
      sourcePool: "main",
      pool: "vault",
    });
    const faults: unknown[] = [];
    const limits = STORAGE_LIMITS;
    const copier = new Copier(database, {
      limits,
      clock: () => new Date(),
      appenderOf: (pool) => new Appender(database, pool, limits, () => new Date(), () => {}),
      onFault: (error) => faults.push(error),
    });
    while ((await storage.copies.get(copyId)).phase !== phase) await copier.sweep();
    await test.drain();
    const { poolId } = await storage.getPool(phase === "verifying" ? "vault" : "main");
    const { count } = await database.$client`
      update blocks set data = set_bit(data, 77, 1 - get_bit(data, 77))
      where pool_id = ${poolId} and data = ${fill(6, 1, BLOCK_BYTES)}`;
    assertEquals(count, 1);
    for (let steps = 0; (await storage.copies.get(copyId)).status === "running"; steps++) {
      if (steps > 100) throw new Error("The copy does not end");
      await copier.sweep();
    }
    const { status, failure } = await storage.copies.get(copyId);
    assertEquals([status, failure?.code], ["failed", "data-corrupt"]);
    const device = phase === "verifying" ? "vault-1" : "main-1";
    assertEquals(failure?.detail.includes(`(device ${device}, segment 1, block 1, `), true, failure?.detail);
    assertEquals(faults.map((fault) => (fault as StorageError).code), ["data-corrupt"]);
  });
}

Deno.test("StagedWriter.write() passes on the checksums that blocks come with, cut as they are", async () => {
  await using test = await createFilled();
  const { storage, test: { database } } = test;
  const volume = await storage.getVolume("v");
  const staging = await beginStaging(database, volume, { blockCount: 3_000 });
  const appender = new Appender(database, volume.pool, STORAGE_LIMITS, () => new Date(), () => {});
  const writer = new StagedWriter(volume.pool, staging, false, {
    database,
    appender,
    limits: STORAGE_LIMITS,
    clock: () => new Date(),
    actor: TESTER,
    leased: false,
    waitMsMax: 0,
  });
  const count = writer.pieceBlocks + 3;
  const checksums = fill(1, 1, 4 * count).map((_, index) => index % 251);
  await test.drain();
  await writer.write(0, fill(1, count, BLOCK_BYTES), checksums);
  const [{ stored }] = await database.$client`
    select string_agg(checksums, '' order by lba) as stored from cache where kind = 'write'`;
  assertEquals((stored as Uint8Array).toHex(), checksums.toHex());
});
