/**
 * No connection is to be had: all of this process's own are in use, or PostgreSQL gives out no more. Whoever waits too long for one is
 * answered 503, nothing is done twice, readiness tells, and all goes on by itself when there are some again.
 */

import { assert, assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { migrate } from "../../src/database/migrate.ts";
import { Storage } from "../../src/storage/storage.ts";
import { createTestDoor, openTestDoor, until } from "../support/door.ts";
import { startOwnPostgres } from "../support/own_postgres.ts";
import { TESTER } from "../support/storage.ts";

/** Far more than a process has connections. */
const AT_ONCE = 60;
const LOAN_MS_MAX = 150;
const HOGS_AT_ONCE = 25;

/** Takes connections of PostgreSQL's; false when there were none. */
async function takeMany(url: string, hogs: Database[], pids: number[]): Promise<boolean> {
  const taken = await Promise.allSettled(Array.from({ length: HOGS_AT_ONCE }, async () => {
    const next = openDatabase(url, { connectionsMax: 1 });
    hogs.push(next);
    const [{ pid }] = await next.$client`select pg_backend_pid() as pid`;
    pids.push(pid);
  }));
  return taken.some(({ status }) => status === "fulfilled");
}

Deno.test(`${AT_ONCE} transactions at once over 2 connections are all done, or 503 while these are held, and once when sent again`, async () => {
  await using door = await createTestDoor();
  const { url } = door.system.test;
  const database = openDatabase(url, { transactionsMax: 2, loanMsMax: LOAN_MS_MAX });
  const other = openDatabase(url, { connectionsMax: 1 });
  try {
    await using storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
    await storage.start();
    await using narrow = openTestDoor(storage);
    const create = async (name: string) => {
      const json = { name, blockCount: 4 };
      return await narrow.call("POST", "/volumes", { json, headers: { "idempotency-key": name } });
    };
    // A busy machine may keep some waiting too long.
    const createAll = (prefix: string) =>
      Promise.all(Array.from({ length: AT_ONCE }, async (_, index) => {
        for (;;) {
          const answer = await create(`${prefix}${index}`);
          if (answer.status !== 503 && answer.status !== 409) return answer;
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }));
    const statuses = (answers: Awaited<ReturnType<typeof create>>[]) => [
      ...new Set(answers.map(({ status, body }) => `${status} ${body.code ?? ""}`)),
    ];

    await other.$client.begin(async (sql) => {
      await sql`select from pool_heads for update`;
      const refused: ReturnType<typeof create>[] = [];
      const all = Array.from({ length: AT_ONCE }, (_, index) => create(`a${index}`));
      for (const one of all) void one.then(({ status }) => status === 503 && refused.push(one));
      // All but the two that hold a connection, and wait for the lock.
      await until(() => refused.length === AT_ONCE - 2);
      assertEquals(statuses(await Promise.all(refused)), ["503 too-busy"]);
    });
    assertEquals(statuses(await createAll("a")), ["201 "]);
    assertEquals((await createAll("a")).every(({ headers }) => headers.has("idempotent-replayed")), true);
    const [{ count }] = await other.$client`select count(*) from volumes`;
    assertEquals(count, AT_ONCE);
  } finally {
    await Promise.all([closeDatabase(database), closeDatabase(other)]);
  }
});

Deno.test("PostgreSQL that gives out no more connections is 503 and not ready, until it does again", async () => {
  await using postgres = await startOwnPostgres();
  const database = openDatabase(postgres.url);
  const hogs: Database[] = [];
  try {
    await migrate(database);
    await using storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: true });
    const shape = { blockSizeBytes: 4096, segmentBlocks: 4, cacheBytesMax: 2 ** 30 };
    await storage.createPool(TESTER, { name: "main", ...shape });
    await storage.addDevice(TESTER, { name: "d", blockCount: 4_000 });
    await storage.start();
    await using door = openTestDoor(storage);
    const create = async (name: string) =>
      await door.call("POST", "/volumes", { json: { name, blockCount: 4 } });
    assertEquals((await create("before")).status, 201);
    const hog = openDatabase(postgres.url, { connectionsMax: 1 });
    hogs.push(hog);
    await hog.$client`select 1`;

    const hogPids: number[] = [];
    const cut = () =>
      hog.$client<{ pid: number }[]>`
        select pid, pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'snapmark' and pid <> pg_backend_pid() and not pid = any(${hogPids})`;
    // Until there are no more; what the server still has is cut, and taken too.
    while (await takeMany(postgres.url, hogs, hogPids) || (await cut()).length > 0);
    await until(async () => !(await door.call("GET", "/health/ready")).body.ready);
    const refused = await create("meanwhile");
    assertEquals([refused.status, refused.body.code], [503, "database-unavailable"]);
    assert(refused.headers.has("retry-after"));

    await Promise.all(hogs.splice(0).map((one) => closeDatabase(one, 0)));
    await until(async () => (await door.call("GET", "/health/ready")).body.ready);
    await until(async () => (await create("after")).status === 201);
    const { body } = await door.call("GET", "/volumes");
    const names = body.volumes.map(({ name }: { name: string }) => name).toSorted();
    assertEquals(names, ["after", "before"]);
    assertEquals((await door.call("POST", "/pools/main/flush")).status, 200);
  } finally {
    await Promise.all([database, ...hogs].map((one) => closeDatabase(one, 0)));
  }
});
