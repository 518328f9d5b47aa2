/** Snapshots that are deleted while they are listed, between any two statements of the list. */

import { assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { Storage } from "../../src/storage/storage.ts";
import { startPostgresProxy } from "../support/postgres_proxy.ts";
import { createTestStorage, TESTER } from "../support/storage.ts";

/** More than a list, or a look, has. */
const STATEMENTS_MAX = 6;

Deno.test("a snapshot that is deleted while it is listed or looked at is there as a whole, or not at all", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await using proxy = startPostgresProxy(test.test.url);
  const database = openDatabase(proxy.url, { connectionsMax: 1 });
  try {
    await using looking = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
    const look = async (name: string) => [
      await looking.getSnapshot(name).catch(({ code }) => code),
      ...(await looking.listSnapshots({}, { itemsMax: 10 })).items,
    ];
    // Connected, and its statements prepared.
    await look("none");
    for (let deleteAt = 1; deleteAt <= STATEMENTS_MAX; deleteAt++) {
      const name = `s${deleteAt}`;
      await storage.takeSnapshot(
        TESTER,
        { volumes: ["v"], name, untilSealed: false },
        AbortSignal.timeout(60_000),
      );
      await test.drain();
      let statements = 0;
      proxy.hooks = {
        onStatement: async () => {
          statements += 1;
          if (statements === deleteAt) await storage.deleteSnapshot(TESTER, name);
        },
      };
      const found = await look(name);
      proxy.hooks = {};
      const halves = found.filter((one) => one !== "snapshot-not-found" && one.volumes.length !== 1);
      assertEquals(halves, [], `deleted at statement ${deleteAt}`);
      if (statements < deleteAt) await storage.deleteSnapshot(TESTER, name);
    }
  } finally {
    await closeDatabase(database);
  }
});
