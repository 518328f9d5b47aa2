/** `/health/live` and `/health/ready`, for those who watch the server. */

import { assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { Storage } from "../../src/storage/storage.ts";
import { createTestDatabase } from "../support/database.ts";
import {
  type Answer,
  createTestDoor,
  createTestVolume,
  openTestDoor,
  type TestDoor,
} from "../support/door.ts";
import { BLOCK_BYTES } from "../support/storage.ts";

/** Longest wait for a flusher's first look. */
const READY_MS_MAX = 10_000;

function checkReady({ call }: Pick<TestDoor, "call">): Promise<Answer> {
  return call("GET", "/health/ready", { token: null });
}

Deno.test("GET /health/live answers without a token", async () => {
  await using door = await createTestDoor();
  const { status, body, headers } = await door.call("GET", "/health/live", { token: null });
  assertEquals([status, body, headers.get("cache-control")], [200, { live: true }, "no-store"]);
});

Deno.test("GET /health/ready answers without a token, also where the flusher runs elsewhere", async () => {
  await using door = await createTestDoor();
  const { status, body } = await checkReady(door);
  assertEquals(status, 200);
  assertEquals(body, { ready: true, database: true, migrations: true, flusher: "elsewhere" });
});

Deno.test("GET /health/ready follows a flusher that runs, then stalls", async () => {
  let now = new Date("2026-01-01T00:00:00Z");
  await using test = await createTestDatabase();
  // The flusher looks once and then idles, so that only the clock moves on.
  await using storage = new Storage({
    database: test.database,
    limits: { ...STORAGE_LIMITS, flushPollMs: 1_000_000 },
    flusher: true,
    clock: () => now,
  });
  await using door = openTestDoor(storage);
  const stalled = { ready: false, database: true, migrations: true, flusher: "stalled" };
  const before = await checkReady(door);
  assertEquals([before.status, before.body], [503, stalled]);
  await storage.start();
  let running = await checkReady(door);
  for (const deadline = Date.now() + READY_MS_MAX; running.status === 503 && Date.now() < deadline;) {
    running = await checkReady(door);
  }
  assertEquals(running.body, { ready: true, database: true, migrations: true, flusher: "running" });
  now = new Date("2026-01-01T00:01:00Z");
  const after = await checkReady(door);
  assertEquals([after.status, after.body], [503, stalled]);
});

Deno.test("GET /health/ready is 503 on a database that is not migrated", async () => {
  await using test = await createTestDatabase("template1");
  await using storage = new Storage({ database: test.database, limits: STORAGE_LIMITS, flusher: false });
  await using door = openTestDoor(storage);
  const { status, body } = await checkReady(door);
  assertEquals(status, 503);
  assertEquals(body, { ready: false, database: true, migrations: false, flusher: "elsewhere" });
});

Deno.test("GET /health/ready is 503 while the database cannot be reached; other routes say so, and when to try again", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const database = openDatabase(`postgres://nobody@127.0.0.1:${port}/none`);
  await using storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
  await using door = openTestDoor(storage);
  const ready = await checkReady(door);
  assertEquals(ready.status, 503);
  assertEquals(ready.body, { ready: false, database: false, migrations: false, flusher: "elsewhere" });
  assertEquals((await door.call("GET", "/health/live")).status, 200);
  for (const path of ["/pools", "/volumes/v", "/volumes/v/blocks/0", "/audit", "/events"]) {
    const { status, headers, body } = await door.call("GET", path);
    assertEquals([status, body.code, headers.get("retry-after")], [503, "database-unavailable", "1"]);
    assertEquals(body.scsi, { status: "CHECK CONDITION", senseKey: 2, asc: 8, ascq: 0 });
    assertEquals(body.detail.includes(String(port)), false);
  }
  await closeDatabase(database);
});

Deno.test("GET /health/ready is 503 when a queue does not move, though its flusher should be elsewhere", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: new Uint8Array(BLOCK_BYTES) });
  assertEquals((await checkReady(door)).status, 200);
  // The clock is the queue's: what waits has waited for a minute.
  await door.system.test.database.$client`update cache set appended_at = appended_at - interval '1 minute'`;
  const { status, body } = await checkReady(door);
  assertEquals([status, body.flusher], [503, "stalled"]);
  await door.system.drain();
  assertEquals((await checkReady(door)).status, 200);
});
