/**
 * PostgreSQL fails in the middle of whatever the server does: a trigger raises an error of a chosen code at a chosen table.
 *
 * Whatever it is, requests are answered success or 503 (507 for a full disk) with Retry-After, never 500; what was refused has changed
 * nothing; what is sent again takes effect once; and everything goes on by itself. What others were in the way of is done
 * all the same, and nobody hears of it.
 */

import { assert, assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { findFault } from "../../src/database/connection_error.ts";
import { Storage } from "../../src/storage/storage.ts";
import {
  type Answer,
  createTestDoor,
  createTestVolume,
  openTestDoor,
  type TestDoor,
  until,
} from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, SEGMENT_BLOCKS } from "../support/storage.ts";

/** Codes as PostgreSQL raises them, and the status that they are answered with; none for those that are got over. */
const CODES: Readonly<Record<string, 503 | 507 | undefined>> = {
  // serialization_failure, deadlock_detected
  "40001": undefined,
  "40P01": undefined,
  // disk_full, out_of_memory, too_many_connections
  "53100": 507,
  "53200": 503,
  "53300": 503,
  // lock_not_available, query_canceled, admin_shutdown, cannot_connect_now
  "55P03": 503,
  "57014": 503,
  "57P01": 503,
  "57P03": 503,
  // io_error, connection_exception, connection_failure, read_only_sql_transaction
  "58030": 503,
  "08000": 503,
  "08006": 503,
  "25006": 503,
};

/** What the requests below write. */
const TABLES = ["pool_heads", "cache", "segment_map", "snapshots", "audit", "events", "volumes", "timelines"];
/** What is written behind their back. */
const FLUSHED_TABLES = ["cache", "blocks", "pool_tails", "snapshots", "events"];

/** Each write goes to a slot of its own, so it maps a segment. */
const SLOTS = 32;
const VOLUME_BLOCKS = SLOTS * SEGMENT_BLOCKS;

function toLba(stamp: number): number {
  return stamp % SLOTS * SEGMENT_BLOCKS;
}

/** A trigger at every table, which raises when it is told to. A sequence counts, for it is not rolled back. */
async function prepareRaising({ system }: TestDoor): Promise<void> {
  const { $client } = system.test.database;
  await $client`create table raising (at text, code text, times bigint)`;
  await $client`create sequence raised`;
  await $client.unsafe(`
    create function raise_as_told() returns trigger language plpgsql as $$
    declare told raising;
    begin
      select * into told from raising where at = tg_table_name;
      if told.code is null or nextval('raised') > told.times then return null; end if;
      raise exception 'as told' using errcode = told.code;
    end $$`);
  for (const table of new Set([...TABLES, ...FLUSHED_TABLES])) {
    await $client.unsafe(`
      create trigger raise_as_told before insert or update or delete on ${table}
      for each statement execute function raise_as_told()`);
  }
}

async function raise({ system }: TestDoor, at: string, code: string, times: number): Promise<void> {
  const { $client } = system.test.database;
  await $client`select setval('raised', 1, false)`;
  await $client`delete from raising`;
  await $client`insert into raising values (${at}, ${code}, ${times})`;
}

/** How often it has raised since it was told to. */
async function countRaised({ system }: TestDoor): Promise<number> {
  const { $client } = system.test.database;
  const [{ last_value: last, is_called: isCalled }] = await $client`select last_value, is_called from raised`;
  return isCalled ? last : 0;
}

async function calm({ system }: TestDoor): Promise<void> {
  await system.test.database.$client`delete from raising`;
}

/** Three requests, each under a key or by a path of its own, as one client sends them again and again until they are done. */
class Wanted {
  readonly #done = new Map<string, Answer>();

  constructor(private readonly door: TestDoor, readonly stamp: number) {}

  /** Sends what is not done; answers what was refused. */
  async send(): Promise<Answer[]> {
    const { stamp } = this;
    const lba = toLba(stamp);
    const write = { octets: fill(stamp, 1, BLOCK_BYTES) };
    const key = (name: string) => ({ "idempotency-key": `${name}-${stamp}` });
    const refused = [
      await this.#try("write", "PUT", `/volumes/v/blocks/${lba}`, write),
      await this.#try("snapshot", "POST", "/snapshots", { json: { name: `s${stamp}` }, headers: key("s") }),
      await this.#try("volume", "POST", "/volumes", {
        json: { name: `v${stamp}`, blockCount: 4 },
        headers: key("v"),
      }),
    ];
    return refused.filter((answer) => answer !== undefined);
  }

  get isDone(): boolean {
    return this.#done.size === 3;
  }

  async #try(
    what: string,
    ...[method, path, options]: Parameters<TestDoor["call"]>
  ): Promise<Answer | undefined> {
    if (this.#done.has(what)) return undefined;
    const answer = await this.door.call(method, path, options);
    if (answer.status >= 400) return answer;
    this.#done.set(what, answer);
  }
}

/** How much was done, of everything that {@linkcode Wanted} does. */
async function countDone({ system }: TestDoor): Promise<Record<string, number>> {
  const [row] = await system.test.database.$client`
    select (select sequence_appended from pool_heads) as sequences, (select count(*) from snapshots) as snapshots,
      (select count(*) from volumes) as volumes, (select count(*) from audit) as audit`;
  return { ...row } as unknown as Record<string, number>;
}

async function assertDoneOnce(
  door: TestDoor,
  before: Record<string, number>,
  stamp: number,
): Promise<void> {
  assertEquals(await countDone(door), {
    sequences: before.sequences + 2,
    snapshots: before.snapshots + 1,
    volumes: before.volumes + 1,
    audit: before.audit + 2,
  });
  const { body } = await door.call("GET", `/volumes/v/blocks/${toLba(stamp)}`);
  assertEquals(readStamps(body, BLOCK_BYTES), [stamp]);
}

function assertRefusal({ status, headers, body }: Answer, expected: number | undefined): void {
  assertEquals([status, headers.has("retry-after")], [expected ?? 503, true], JSON.stringify(body));
}

Deno.test("findFault() knows every code that these tests raise", () => {
  for (const code of Object.keys(CODES)) assert(findFault({ code }) !== undefined, code);
});

for (const [code, status] of Object.entries(CODES)) {
  Deno.test(`${code} raised at any table that requests write is ${status ?? "got over"}, and nothing is done twice`, async () => {
    await using door = await createTestDoor();
    await createTestVolume(door, "v", { blockCount: VOLUME_BLOCKS });
    await prepareRaising(door);
    let stamp = 0;
    for (const table of TABLES) {
      // All the time; and once, which is got over
      for (const times of status === undefined ? [1, 1_000] : [1_000]) {
        stamp += 1;
        const before = await countDone(door);
        const wanted = new Wanted(door, stamp);
        await raise(door, table, code, times);
        const refused = await wanted.send();
        assert(await countRaised(door) > 0, `${table} was not written`);
        if (status === undefined && times === 1) assertEquals(refused, []);
        else assert(refused.length > 0, `${code} at ${table} was not noticed`);
        for (const answer of refused) assertRefusal(answer, status);
        await calm(door);
        assertEquals([await wanted.send(), wanted.isDone], [[], true]);
        await assertDoneOnce(door, before, stamp);
      }
    }
    await door.system.drain();
    assertEquals((await door.call("GET", "/pools/main")).body.dirtyEntries, 0);
  });
}

Deno.test("whatever is raised at the flusher's tables, it goes on, and readers see what was acknowledged", async () => {
  const limits = { flushRetryMs: 5, flushGatherMs: 5 };
  await using door = await createTestDoor({ flusher: true, limits });
  await createTestVolume(door, "v", { blockCount: VOLUME_BLOCKS });
  await prepareRaising(door);
  let stamp = 0;
  for (const table of FLUSHED_TABLES) {
    for (const code of Object.keys(CODES)) {
      stamp += 1;
      const lba = toLba(stamp);
      // The request is over before it raises; where the flusher is faster, there is nothing left to fail at.
      const octets = fill(stamp, 1, BLOCK_BYTES);
      assertEquals((await door.call("PUT", `/volumes/v/blocks/${lba}`, { octets })).status, 200);
      await door.call("POST", "/snapshots", { json: { name: `s${stamp}` } });
      await raise(door, table, code, 3);
      const { body } = await door.call("GET", `/volumes/v/blocks/${lba}`);
      assertEquals(readStamps(body, BLOCK_BYTES), [stamp]);
      await calm(door);
    }
  }
  assertEquals((await door.call("POST", "/pools/main/flush")).status, 200);
  const { body: { snapshots } } = await door.call("GET", "/snapshots?maxResults=1000");
  assertEquals(snapshots.filter((one: { status: string }) => one.status !== "sealed"), []);
  assertEquals(snapshots.length, stamp);
  for (const { name } of snapshots) {
    const cut = Number(name.slice(1));
    const { body } = await door.call("GET", `/snapshots/${name}/blocks/${toLba(cut)}?volume=v`);
    assertEquals(readStamps(body, BLOCK_BYTES), [cut]);
  }
});

Deno.test("a request that loses a real deadlock is done all the same, once", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: VOLUME_BLOCKS });
  await door.call("POST", "/snapshots", { json: { name: "s" } });
  await door.system.drain();
  const { test } = door.system;
  const database = openDatabase(test.url, { connectionsMax: 1 });
  try {
    const deleting = await database.$client.begin(async (sql) => {
      // Locks in the contrary order; and it is not this session that looks for a deadlock.
      await sql`set local deadlock_timeout = '60s'`;
      await sql`select from snapshots for update`;
      const answer = door.call("DELETE", "/snapshots/s");
      await until(async () => await countBlocked(door) === 1);
      await sql`select from pool_heads for update`;
      return { answer };
    });
    assertEquals((await deleting.answer).status, 204);
  } finally {
    await closeDatabase(database);
  }
  const rows = await test.database.$client`select from audit where action = 'snapshot.delete'`;
  assertEquals(rows.length, 1);
});

/** Sessions of the test's database that wait for a lock. */
async function countBlocked({ system }: TestDoor): Promise<number> {
  const rows = await system.test.database.$client`
    select from pg_stat_activity where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0`;
  return rows.length;
}

Deno.test("statements that time out behind somebody else's lock are answered 503, and done once when sent again", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: VOLUME_BLOCKS });
  const { test, storage } = door.system;
  const address = new URL(test.url);
  address.searchParams.set("statement_timeout", "200");
  const hasty = openDatabase(address.href);
  const other = openDatabase(test.url, { connectionsMax: 1 });
  try {
    await using hastyStorage = new Storage({ database: hasty, limits: STORAGE_LIMITS, flusher: false });
    await hastyStorage.start();
    await using hastyDoor = openTestDoor(hastyStorage);
    const both = { ...hastyDoor, system: door.system } as TestDoor;
    const before = await countDone(door);
    const wanted = new Wanted(both, 7);
    await other.$client.begin(async (sql) => {
      await sql`select from pool_heads for update`;
      const refused = await wanted.send();
      assertEquals(refused.length, 3);
      for (const answer of refused) assertRefusal(answer, 503);
    });
    assertEquals([await wanted.send(), wanted.isDone], [[], true]);
    await assertDoneOnce(both, before, 7);
    assertEquals((await storage.getPool("main")).sequenceAppended, before.sequences + 2);
  } finally {
    await Promise.all([closeDatabase(hasty), closeDatabase(other)]);
  }
});
