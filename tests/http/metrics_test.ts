/**
 * What `/metrics` tells: the figures that a known sequence of requests leaves, and no name that a request brings.
 */

import { assert, assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { Storage } from "../../src/storage/storage.ts";
import {
  createTestDoor,
  createTestPool,
  createTestVolume,
  openTestDoor,
  type TestDoor,
  until,
} from "../support/door.ts";
import { fill } from "../support/history.ts";
import { subscribe } from "../support/websocket.ts";

/** The value of each series, by its name and labels as they are written. */
async function scrape({ call }: Pick<TestDoor, "call">): Promise<Map<string, number>> {
  const { status, body, headers } = await call("GET", "/metrics");
  assertEquals([status, headers.get("content-type")], [200, "text/plain; version=0.0.4; charset=utf-8"]);
  const lines = (body as string).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(lines.map((line) => [
    line.slice(0, line.lastIndexOf(" ")),
    Number(line.slice(line.lastIndexOf(" ") + 1)),
  ]));
}

Deno.test("GET /metrics tells what was appended, flushed, marked and sealed, of each pool and of the process", async () => {
  await using door = await createTestDoor({ flusher: true });
  await createTestPool(door, "quiet");
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 4, 512) });
  await door.call("DELETE", "/volumes/v/blocks/9");
  await door.call("POST", "/snapshots?wait=sealed", { json: { volumes: ["v"] } });
  await door.call("POST", "/pools/main/flush");
  const figures = await scrape(door);
  const pool = (name: string) => figures.get(`snapmark_pool_${name}{pool="main"}`);
  assertEquals([pool("appended_entries_total"), pool("flushed_entries_total"), pool("dirty_entries")], [
    3,
    3,
    0,
  ]);
  assertEquals([pool("appended_bytes_total"), pool("flushed_bytes_total"), pool("dirty_bytes")], [
    2_048,
    2_048,
    0,
  ]);
  assertEquals([pool("flush_lag_seconds"), pool("snapshots_pending"), pool("reclaims_waiting")], [0, 0, 0]);
  assertEquals([pool("segments"), pool("free_segments")], [250_000, 249_999]);
  assertEquals(figures.get('snapmark_pool_appended_entries_total{pool="quiet"}'), 0);
  const counted = ["append_batch_entries", "append_commit_seconds", "marker_wait_seconds", "seal_seconds"]
    .map((name) => figures.get(`snapmark_${name}_count`));
  assertEquals(counted, [2, 2, 1, 1]);
  assertEquals(figures.get("snapmark_append_batch_bytes_sum"), 2_048);
  assertEquals(figures.get("snapmark_flush_step_entries_sum"), 2);
  assertEquals([figures.get("snapmark_database_up"), figures.get("snapmark_background_faults_total")], [
    1,
    0,
  ]);
});

Deno.test("GET /metrics tells what is to be digested, what was, and what is damaged", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 4, 512) });
  for (let i = 0; i < 2; i++) await door.call("POST", "/snapshots", { json: { volumes: ["v"] } });
  const pool = async () => {
    const figures = await scrape(door);
    return ["digests_pending", "snapshots_damaged"].map((name) =>
      figures.get(`snapmark_pool_${name}{pool="main"}`)
    );
  };
  assertEquals(await pool(), [0, 0]);
  await door.system.drain();
  assertEquals(await pool(), [2, 0]);
  await door.system.createDigester().sweep();
  assertEquals(await pool(), [1, 0]);
  await door.system.test.database.$client`update snapshots set intact = false where intact`;
  assertEquals(await pool(), [1, 1]);
});

Deno.test("GET /metrics tells how far the flusher is behind while nobody flushes", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 4, 512) });
  await door.system.test.database.$client`update cache set appended_at = now() - interval '90 s'`;
  await door.call("POST", "/snapshots", { json: { volumes: ["v"] } });
  const figures = await scrape(door);
  const pool = (name: string) => figures.get(`snapmark_pool_${name}{pool="main"}`) as number;
  assertEquals([pool("dirty_entries"), pool("dirty_bytes"), pool("snapshots_pending")], [2, 2_048, 1]);
  assert(pool("flush_lag_seconds") >= 90 && pool("flush_lag_seconds") < 120);
});

Deno.test("GET /metrics counts the segments that a deleted volume gives back", async () => {
  await using door = await createTestDoor({ flusher: true });
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 12, 512) });
  await door.call("POST", "/pools/main/flush");
  await door.call("DELETE", "/volumes/v");
  await until(async () => (await scrape(door)).get("snapmark_reclaimed_segments_total") === 3);
});

Deno.test("GET /metrics counts requests by pattern, method and status, and has no name or id that they bring", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "secret-volume");
  for (let index = 0; index < 30; index++) {
    await door.call("GET", `/volumes/secret-${index}/blocks/0`);
    await door.call("GET", `/volumes/secret-${index}`);
    await door.call("GET", `/secret-${index}`);
    await door.call(`SECRET${index}`, "/volumes");
  }
  await door.call("PUT", "/volumes/secret-volume/blocks/0", { octets: fill(1, 1, 512) });
  await door.call("GET", "/volumes", { token: null });
  const figures = await scrape(door);
  const requests = (method: string, route: string, status: number) =>
    figures.get(`snapmark_http_requests_total{method="${method}",route="${route}",status="${status}"}`);
  assertEquals(requests("GET", "/volumes/{volume}/blocks/{lba}", 404), 30);
  assertEquals(requests("PUT", "/volumes/{volume}/blocks/{lba}", 200), 1);
  assertEquals(requests("GET", "/volumes/{volume}", 404), 30);
  assertEquals(requests("GET", "none", 404), 30);
  assertEquals(requests("other", "none", 405), 30);
  assertEquals(requests("GET", "/volumes", 401), 1);
  const latency = 'snapmark_http_request_seconds_count{method="GET",route="/volumes/{volume}"}';
  assertEquals(figures.get(latency), 30);
  assertEquals([...figures.keys()].filter((series) => /secret/i.test(series)), []);
});

Deno.test("GET /metrics tells the WebSockets that are open", async () => {
  await using door = await createTestDoor();
  const open = async () => (await scrape(door)).get("snapmark_websockets_open");
  assertEquals(await open(), 0);
  {
    using _ = await subscribe(door, "?pool=main");
    assertEquals(await open(), 1);
  }
  await until(async () => await open() === 0);
});

Deno.test("GET /metrics answers without the pools when the database does not, and never without a token", async () => {
  const database = openDatabase("postgres://nobody@127.0.0.1:1/none", { connectionsMax: 1 });
  await using _ = { [Symbol.asyncDispose]: () => closeDatabase(database, 0) };
  const storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
  await using door = openTestDoor(storage);
  const figures = await scrape(door);
  assertEquals(figures.get("snapmark_database_up"), 0);
  assertEquals([...figures.keys()].filter((series) => series.startsWith("snapmark_pool_")), []);
  assertEquals((await door.call("GET", "/metrics", { token: null })).status, 401);
});
