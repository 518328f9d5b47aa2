/**
 * A standby that is taken for the server, as for a moment of a failover: what only reads may be answered, and the rest is told to
 * come again.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { startEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";
import { migrate } from "../../src/database/migrate.ts";
import { toStorageError } from "../../src/storage/fault.ts";
import { Storage } from "../../src/storage/storage.ts";
import { fill } from "../support/history.ts";
import { makeDataDirectory } from "../support/own_postgres.ts";
import { TESTER, write } from "../support/storage.ts";

/** Runs `work` with a storage system that nothing goes on in by itself, on the PostgreSQL of that directory. */
async function withStorage(
  dataDir: string,
  work: (storage: Storage, database: Database) => Promise<void>,
): Promise<void> {
  const postgres = await startEmbeddedPostgres({ dataDir });
  const database = openDatabase(postgres.url);
  try {
    await using storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
    await work(storage, database);
  } finally {
    await closeDatabase(database);
    await postgres.stop();
  }
}

async function becomeStandby(dataDir: string): Promise<void> {
  const cluster = join(dataDir, "postgres");
  const signal = join(cluster, "standby.signal");
  await Deno.writeTextFile(signal, "");
  const { uid, gid } = await Deno.stat(cluster);
  if (uid !== null && gid !== null) await Deno.chown(signal, uid, gid);
}

Deno.test("a standby answers reads, and whatever writes with database-unavailable", async () => {
  const dataDir = await makeDataDirectory();
  try {
    await withStorage(dataDir, async (storage, database) => {
      await migrate(database);
      const shape = { name: "main", blockSizeBytes: 512, segmentBlocks: 4, cacheBytesMax: 2 ** 20 };
      await storage.createPool(TESTER, shape);
      await storage.addDevice(TESTER, { name: "main-1", blockCount: 400 });
      await storage.createVolume(TESTER, { name: "v", blockCount: 16 });
      await storage.append(TESTER, "v", undefined, [write(1, 7)]);
    });
    await becomeStandby(dataDir);
    await withStorage(dataDir, async (storage) => {
      const bytes = await storage.readVolume("v", undefined, { lba: 1, blockCount: 1 });
      assertEquals(bytes, fill(7, 1, 512));
      const snapshot = { volumes: ["v"], untilSealed: false };
      for (
        const work of [
          () => storage.append(TESTER, "v", undefined, [write(1, 8)]),
          () => storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(10_000)),
          () => storage.createVolume(TESTER, { name: "w", blockCount: 16 }),
          () => storage.getPool("main"),
        ]
      ) {
        assertEquals(toStorageError(await assertRejects(work))?.code, "database-unavailable");
      }
    });
  } finally {
    await Deno.remove(dataDir, { recursive: true });
  }
});
