import { assertEquals, assertRejects } from "@std/assert";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { isMigrated, migrate } from "../../src/database/migrate.ts";
import { createTestDatabase } from "../support/database.ts";

Deno.test("migrate() brings an empty database up, once, however many processes start at the same time", async () => {
  await using test = await createTestDatabase("template1");
  assertEquals(await isMigrated(test.database), false);
  const others = Array.from({ length: 4 }, () => openDatabase(test.url, { connectionsMax: 1 }));
  try {
    const applied = await Promise.all(others.map((database) => migrate(database)));
    assertEquals(applied.toSorted((a, b) => b.length - a.length), [
      [
        "0001_storage.sql",
        "0002_speed.sql",
        "0003_append_behind.sql",
        "0004_vacuum_blocks.sql",
        "0005_lineage.sql",
        "0006_reclaim.sql",
        "0007_hold.sql",
        "0008_covered.sql",
        "0009_label.sql",
        "0010_space.sql",
        "0011_idempotency.sql",
        "0012_schedule.sql",
        "0013_staging.sql",
        "0014_copy.sql",
        "0015_reclaim_order.sql",
        "0016_placement.sql",
        "0017_priority.sql",
        "0018_client.sql",
      ],
      [],
      [],
      [],
    ]);
  } finally {
    await Promise.all(others.map((database) => closeDatabase(database)));
  }
  assertEquals(await isMigrated(test.database), true);
});

Deno.test("migrate() refuses a database newer than the program", async () => {
  await using test = await createTestDatabase();
  await test.database.$client`insert into schema_migrations (version, name) values (9999, 'later')`;
  await assertRejects(() => migrate(test.database), Error, "its schema is version 9999");
  assertEquals(await isMigrated(test.database), false);
});
