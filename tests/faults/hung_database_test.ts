/**
 * PostgreSQL hangs for longer than a request may wait: whoever asks has an answer all the same, which says that nobody knows
 * unless it was to read; and when PostgreSQL goes on, what was under way is done once, and what is sent again not a second time.
 */

import { assert, assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { migrate } from "../../src/database/migrate.ts";
import { createClientToken } from "../../src/storage/client_token.ts";
import { createId } from "../../src/storage/identifier.ts";
import { Storage } from "../../src/storage/storage.ts";
import { type Answer, type CallOptions, openTestDoor, until } from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import { startOwnPostgres } from "../support/own_postgres.ts";
import { TESTER } from "../support/storage.ts";

const ANSWER_MS_MAX = 700;
/** The limit, and what a busy machine takes. */
const ANSWERED_MS_MAX = ANSWER_MS_MAX + 2_000;
const BLOCK_BYTES = 4096;
const VOLUMES = ["a", "b", "c"];

type Request = [method: string, path: string, options?: CallOptions];

const octets = fill(7, 1, BLOCK_BYTES);
const keyed = (key: string, json: unknown): CallOptions => ({ json, headers: { "idempotency-key": key } });

/** Those that change nothing, or had not come so far. */
const READS: readonly Request[] = [
  ["GET", "/volumes/a/blocks/0"],
  ["GET", "/volumes/a"],
  ["GET", "/snapshots"],
  ["PUT", "/volumes/a/image", { octets }],
  ["GET", "/pools/main", { token: createClientToken(createId()).token }],
];
/** By the fast lane, by the ordinary way, and under a key. */
const CHANGES: readonly Request[] = [
  ["PUT", "/volumes/a/blocks/0", { octets }],
  ["POST", "/volumes/b/writes", { json: { writes: [{ lba: 1, data: octets.toBase64() }] } }],
  ["POST", "/snapshots", keyed("s", { name: "s", volumes: ["c"] })],
  ["POST", "/volumes", keyed("v", { name: "v", blockCount: 8 })],
];

/** How much was done, of everything that the requests do. */
async function countDone(
  database: Database,
): Promise<{ sequences: number; snapshots: number; volumes: number }> {
  const [row] = await database.$client`
    select (select sequence_appended from pool_heads) as sequences, (select count(*) from snapshots) as snapshots,
      (select count(*) from volumes) as volumes`;
  return { ...row } as unknown as { sequences: number; snapshots: number; volumes: number };
}

Deno.test(`requests to a PostgreSQL that hangs are answered within ${ANSWER_MS_MAX} ms, and nothing is done twice`, async () => {
  await using postgres = await startOwnPostgres();
  const database = openDatabase(postgres.url);
  try {
    await migrate(database);
    await using storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: true });
    await storage.createPool(TESTER, {
      name: "main",
      blockSizeBytes: BLOCK_BYTES,
      segmentBlocks: 4,
      cacheBytesMax: 2 ** 30,
    });
    await storage.addDevice(TESTER, { name: "d", blockCount: 4_000 });
    await storage.start();
    await using door = openTestDoor(storage, { answerMsMax: ANSWER_MS_MAX });
    for (const name of VOLUMES) {
      assertEquals((await door.call("POST", "/volumes", { json: { name, blockCount: 8 } })).status, 201);
    }
    const before = await countDone(database);

    await postgres.hang();
    try {
      const startedAt = performance.now();
      const callAll = (requests: readonly Request[]): Promise<Answer[]> =>
        Promise.all(requests.map((request) => door.call(...request)));
      const [reads, changes] = await Promise.all([callAll(READS), callAll(CHANGES)]);
      assert(performance.now() - startedAt < ANSWERED_MS_MAX, `${performance.now() - startedAt} ms`);
      for (const { status, body, headers } of reads) {
        assertEquals([status, body.code], [503, "database-unavailable"]);
        assert(headers.has("retry-after"));
      }
      for (const { status, body } of changes) assertEquals([status, body.code], [503, "outcome-unknown"]);
      assertEquals((await door.call("GET", "/health/ready")).body.ready, false);
    } finally {
      postgres.wake();
    }

    // All of it was under way, and is done: two entries and a marker.
    const done = { sequences: before.sequences + 3, snapshots: 1, volumes: VOLUMES.length + 1 };
    await until(async () => (await countDone(database)).volumes === done.volumes);
    await until(async () => (await countDone(database)).sequences === done.sequences);
    assertEquals(await countDone(database), done);
    await until(async () => (await door.call("GET", "/health/ready")).body.ready);
    for (const [, , options] of CHANGES.slice(2)) {
      const path = options?.headers?.["idempotency-key"] === "s" ? "/snapshots" : "/volumes";
      const { status } = await door.call("POST", path, options);
      assert(status === 201 || status === 202, String(status));
    }
    assertEquals(await countDone(database), done);
    for (const [volume, lba] of [["a", 0], ["b", 1]]) {
      const { body } = await door.call("GET", `/volumes/${volume}/blocks/${lba}`);
      assertEquals(readStamps(body, BLOCK_BYTES), [7]);
    }
    assertEquals((await door.call("POST", "/pools/main/flush")).status, 200);
  } finally {
    await closeDatabase(database);
  }
});
