/**
 * The database's connections are cut at random moments: what was answered is there, and everything goes on by itself.
 */

import { assertEquals } from "@std/assert";
import { toStorageError } from "../../src/storage/fault.ts";
import { createTestDatabase } from "../support/database.ts";
import { below, fill, readStamps, seeded } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER } from "../support/storage.ts";

const SEED = 99;
const CUTS = 25;
const WRITERS = 4;
/** Each writer has blocks of its own, so it knows what they may hold. */
const BLOCKS_PER_WRITER = 8;

Deno.test(`connections cut ${CUTS} times while clients write and snapshot: nothing answered is lost, all goes on (seed ${SEED})`, async () => {
  await using test = await createTestStorage({ flusher: true });
  await using admin = await createTestDatabase("template1");
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: WRITERS * BLOCKS_PER_WRITER });
  const name = new URL(test.test.url).pathname.slice(1);
  const allowed = Array.from({ length: WRITERS * BLOCKS_PER_WRITER }, () => new Set([0]));
  const codes = new Set<string>();
  let cutting = true;
  let stamp = 0;
  let answered = 0;
  const random = seeded(SEED);
  const write = async (lba: number) => {
    const mine = ++stamp;
    try {
      await storage.append(TESTER, "v", undefined, [{ lba, data: fill(mine, 1, BLOCK_BYTES) }]);
      allowed[lba] = new Set([mine]);
      answered += 1;
    } catch (error) {
      // Not answered: it is there or it is not.
      allowed[lba].add(mine);
      codes.add(toStorageError(error)?.code ?? String(error));
    }
  };
  const writers = Array.from({ length: WRITERS }, async (_, writer) => {
    while (cutting) await write(writer * BLOCKS_PER_WRITER + below(random, BLOCKS_PER_WRITER));
  });
  const snapshotter = (async () => {
    while (cutting) {
      const taking = storage.takeSnapshot(
        TESTER,
        { volumes: ["v"], untilSealed: false },
        AbortSignal.timeout(60_000),
      );
      await taking.catch((error) => codes.add(toStorageError(error)?.code ?? String(error)));
    }
  })();
  for (let cut = 0; cut < CUTS; cut++) {
    const enough = answered + below(random, 30);
    while (answered < enough) await admin.database.$client`select 1`;
    await admin.database
      .$client`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${name}`;
  }
  const enough = answered + 50;
  while (answered < enough) await admin.database.$client`select 1`;
  cutting = false;
  await Promise.all([...writers, snapshotter]);

  assertEquals([...codes].filter((code) => !["database-unavailable", "outcome-unknown"].includes(code)), []);
  // postgres.js tells the error of a lost connection once more, to the first statement on the one that takes its place.
  await Promise.allSettled(Array.from({ length: 100 }, () => test.test.database.$client`select 1`));
  await storage.flushPool("main", AbortSignal.timeout(60_000));
  const range = { lba: 0, blockCount: allowed.length };
  const stamps = readStamps(await storage.readVolume("v", undefined, range), BLOCK_BYTES);
  assertEquals(stamps.filter((found, lba) => !allowed[lba].has(found)), []);
  const { items } = await storage.listSnapshots({}, { itemsMax: 10_000 });
  assertEquals(items.filter(({ status }) => status !== "sealed"), []);
  const [row] = await test.test.database.$client`
    select h.sequence_appended - t.entries_flushed as entries, h.bytes_appended - t.bytes_flushed as bytes
    from pool_heads h join pool_tails t using (pool_id)`;
  assertEquals({ ...row }, { entries: 0, bytes: 0 });
});
