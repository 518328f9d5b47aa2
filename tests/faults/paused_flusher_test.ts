/**
 * Invariant 6 and *one flusher a pool*, the hard way: a flusher that stands still in the middle of a step for longer than PostgreSQL
 * lets a transaction idle, while another does its work, and newer writes come and are flushed. Woken, it changes nothing.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { Flusher } from "../../src/storage/flusher.ts";
import { until } from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER } from "../support/storage.ts";

/** Instead of ten seconds; the other flusher finds the pool held until then. */
const IDLE_MS_MAX = 200;
const BLOCKS = 40;

/** The address of a database whose sessions may idle in a transaction only for {@linkcode IDLE_MS_MAX}. */
function withShortIdle(url: string): string {
  const address = new URL(url);
  address.searchParams.set("idle_in_transaction_session_timeout", String(IDLE_MS_MAX));
  return address.href;
}

for (const point of ["locked", "chosen", "copied", "deleted", "sealed", "moved"]) {
  Deno.test(`a flusher paused after "${point}" past its session's time, then woken, has no effect`, async () => {
    await using test = await createTestStorage();
    const { storage } = test;
    const write = async (stamp: number) =>
      await storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(stamp, BLOCKS, BLOCK_BYTES) }]);
    await storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
    await write(1);
    const cut = { volumes: ["v"], name: "s", untilSealed: false };
    await storage.takeSnapshot(TESTER, cut, AbortSignal.timeout(60_000));
    const reached = Promise.withResolvers<void>();
    const woken = Promise.withResolvers<void>();
    const database = openDatabase(withShortIdle(test.test.url));
    try {
      const paused = new Flusher(database, {
        limits: STORAGE_LIMITS,
        clock: () => new Date(),
        onFault: () => {},
        onPoint: async (at) => {
          if (at !== point) return;
          reached.resolve();
          await woken.promise;
        },
      });
      const step = paused.sweep();
      await reached.promise;
      const other = test.createFlusher();
      assertEquals(await other.sweep(), false);
      await until(async () => await other.sweep());
      await write(101);
      await test.drain();
      await write(201);
      await test.drain();
      const before = await readState();
      woken.resolve();
      await assertRejects(() => step);
      assertEquals(await readState(), before);
      // And it goes on to flush.
      await write(301);
      await until(async () => await paused.sweep().catch(() => false));
      await test.drain();
    } finally {
      woken.resolve();
      await closeDatabase(database);
    }
    const range = { lba: 0, blockCount: BLOCKS };
    const stampsFrom = (first: number) => Array.from({ length: BLOCKS }, (_, index) => first + index);
    assertEquals(readStamps(await storage.readVolume("v", undefined, range), BLOCK_BYTES), stampsFrom(301));
    const snapshot = await storage.readSnapshot("s", undefined, undefined, range);
    assertEquals(readStamps(snapshot, BLOCK_BYTES), stampsFrom(1));
    assertEquals((await storage.getPool("main")).dirtyEntries, 0);
    const sealed = await test.test.database.$client`select from events where type = 'snapshot.sealed'`;
    assertEquals(sealed.length, 1);

    /** All that a step of flushing changes. */
    async function readState(): Promise<unknown> {
      const [row] = await test.test.database.$client`
        select (select json_agg(t) from pool_tails t) as tails, (select count(*) from cache) as cache,
          (select json_agg(json_build_array(segment_id, sequence, md5(data)) order by segment_id, sequence, md5(data))
            from blocks) as blocks,
          (select json_agg(json_build_array(status, sealed_at)) from snapshots) as snapshots,
          (select json_agg(e order by event_id) from events e) as events`;
      return { ...row };
    }
  });
}
