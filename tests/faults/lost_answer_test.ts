/**
 * The database is lost between the commit of what a request did and the reading of its answer: no client is told that nothing was
 * changed.
 */

import { assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { toStorageError } from "../../src/storage/fault.ts";
import { Storage } from "../../src/storage/storage.ts";
import { until } from "../support/door.ts";
import { startPostgresProxy } from "../support/postgres_proxy.ts";
import { BLOCK_BYTES, createTestStorage, SEGMENT_BLOCKS, TESTER, write } from "../support/storage.ts";

type Act = (
  storage: Storage,
  made: { snapshotId: string; scheduleId: string; copyId: string },
) => Promise<unknown>;

const soon = () => AbortSignal.timeout(20_000);
const CASES: Readonly<Record<string, Act>> = {
  "takeSnapshot()": (storage) => storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, soon()),
  "takeSnapshot() that waits for the seal": (storage) =>
    storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: true }, soon()),
  "changeSnapshot()": (storage, { snapshotId }) =>
    storage.changeSnapshot(TESTER, snapshotId, undefined, { description: "changed" }),
  "holdSnapshot()": (storage, { snapshotId }) =>
    storage.holdSnapshot(TESTER, snapshotId, undefined, { until: new Date(Date.now() + 60_000), reason: "" }),
  "schedules.run()": (storage, { scheduleId }) => storage.schedules.run(TESTER, scheduleId),
  "copies.cancel()": (storage, { copyId }) => storage.copies.cancel(TESTER, copyId),
};

/** What the requests need, made past the proxy. */
async function prepare(storage: Storage) {
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await storage.append(TESTER, "v", undefined, [write(0, 1)]);
  const { snapshotId } = await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, soon());
  const { scheduleId } = await storage.schedules.create(TESTER, {
    name: "s",
    every: "P1D",
    timeZone: "UTC",
    snapshotName: "{schedule}-{time}",
    skipUnchanged: false,
    labels: {},
    paused: true,
  });
  const shape = { blockSizeBytes: BLOCK_BYTES, segmentBlocks: SEGMENT_BLOCKS, cacheBytesMax: 2 ** 30 };
  await storage.createPool(TESTER, { name: "other", ...shape });
  const { copyId } = await storage.copies.create(TESTER, { snapshot: snapshotId, pool: "other" });
  return { snapshotId, scheduleId, copyId };
}

for (const [name, act] of Object.entries(CASES)) {
  Deno.test(`${name} is answered outcome-unknown when the database is lost right behind its commit`, async () => {
    await using test = await createTestStorage();
    const made = await prepare(test.storage);
    const proxy = startPostgresProxy(test.test.url);
    const database = openDatabase(proxy.url);
    const storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
    await storage.start();
    let committed = false;
    proxy.hooks = {
      onStatement: () => {
        if (committed) throw new Error("The database is lost");
      },
      onAnswer: ({ text }) => {
        committed ||= text === "commit";
      },
    };
    const outcome = await act(storage, made).then(() => "answered", (error) => toStorageError(error)?.code);
    assertEquals([committed, outcome], [true, "outcome-unknown"]);
    // Those that are lost are noticed when they are used; the feed's goes on when it can.
    proxy.hooks = {};
    await until(() => database.$client`select 1`.then(() => true, () => false));
    await storage.stop();
    await closeDatabase(database, 1);
    await proxy[Symbol.asyncDispose]();
  });
}
