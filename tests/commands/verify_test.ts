/** `verify`, as a process with the permissions of its task. */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { runTask } from "../support/server.ts";
import { createTestStorage, TESTER } from "../support/storage.ts";

Deno.test("verify tells that every pool's audit fits, or names the first row that does not", async () => {
  await using system = await createTestStorage();
  const environment = { DATABASE_URL: system.test.url };
  await system.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  const right = await runTask("verify", environment);
  assertEquals([right.code, right.stderr], [0, ""]);
  assertStringIncludes(right.stdout, "Pool main: 3 rows of the audit fit, up to hash ");
  await system.test.database.$client`update audit set origin = 'elsewhere' where chain_number = 2`;
  const wrong = await runTask("verify", environment);
  assertEquals(wrong.code, 1);
  assertStringIncludes(wrong.stdout, "Pool main: row 2 of the audit (");
  assertStringIncludes(wrong.stdout, ") was changed");
  assertStringIncludes(wrong.stderr, "Cannot vouch for the audit of 1 of 1 pools");
});

Deno.test("verify refuses a database that is not migrated, and flags that it does not know", async () => {
  await using system = await createTestStorage();
  await system.test.database.$client`delete from schema_migrations where version > 10`;
  const { code, stderr } = await runTask("verify", { DATABASE_URL: system.test.url });
  assertEquals(code, 1);
  assertStringIncludes(stderr, "expected this version's schema");
  assertEquals((await runTask("verify", { DATABASE_URL: system.test.url }, ["--nothing"])).code, 2);
});
