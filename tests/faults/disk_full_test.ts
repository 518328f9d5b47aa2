/**
 * The disk of the database is full: where its tables are, or where its log is. Writes are refused, nothing acknowledged is lost, what can
 * be read is read, and all goes on when there is room, without anybody starting anything again.
 */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { startEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";
import { Client } from "../support/client.ts";
import { atDatabase } from "../support/database.ts";
import { until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { makeDataDirectory, startOwnPostgres } from "../support/own_postgres.ts";
import {
  startBundledServerProcess,
  startServerProcess,
  TEST_TOKEN,
  type TestServer,
} from "../support/server.ts";
import { giveToOwnerOf, mountSmallDisk, moveTo, type SmallDisk } from "./small_disk.ts";

const MIB = 2 ** 20;
const BLOCK_BYTES = 4096;
/** Of one write: random enough not to be compressed, and told apart by its stamps. */
const WRITE_BLOCKS = 64;
const VOLUME_BLOCKS = 16_384;
/** More than any of the disks holds. */
const WRITES_MAX = VOLUME_BLOCKS / WRITE_BLOCKS;
/** How long it takes until there is room again, which is longer than a keeper's first tries. */
const FULL_MS = 6_000;

interface Written {
  readonly answered: Set<number>;
  readonly refusals: Map<string, number>;
}

/** Writes number `index`, to its own place. Answers the refusal, if it is one. */
async function writeOne({ url }: TestServer, index: number): Promise<string | undefined> {
  const lba = index * WRITE_BLOCKS;
  try {
    const response = await fetch(`${url}/volumes/v/blocks/${lba}`, {
      method: "PUT",
      headers: { authorization: `Bearer ${TEST_TOKEN}`, "content-type": "application/octet-stream" },
      body: fill(1 + lba, WRITE_BLOCKS, BLOCK_BYTES),
      signal: AbortSignal.timeout(60_000),
    });
    const body = await response.json();
    return response.ok ? undefined : `${response.status} ${body.code}`;
  } catch {
    return "lost";
  }
}

/** Writes until so many are refused one after the other. */
async function writeUntilFull(server: TestServer): Promise<Written> {
  const written: Written = { answered: new Set(), refusals: new Map() };
  for (let index = 0, refused = 0; refused < 5; index++) {
    assert(index < WRITES_MAX, "the disk was never full");
    const refusal = await writeOne(server, index);
    if (refusal === undefined) written.answered.add(index);
    else written.refusals.set(refusal, (written.refusals.get(refusal) ?? 0) + 1);
    refused = refusal === undefined ? 0 : refused + 1;
  }
  return written;
}

async function assertReadable(client: Client, { answered }: Written): Promise<void> {
  const bytes = await client.readVolume("v", VOLUME_BLOCKS, 1024);
  for (const index of answered) {
    const start = index * WRITE_BLOCKS * BLOCK_BYTES;
    const found = bytes.subarray(start, start + WRITE_BLOCKS * BLOCK_BYTES);
    const expected = fill(1 + index * WRITE_BLOCKS, WRITE_BLOCKS, BLOCK_BYTES);
    assert(found.every((byte, at) => byte === expected[at]), `write ${index} was answered and is not there`);
  }
}

/** All goes on: what was acknowledged is there, everything is flushed, a snapshot seals, and what was refused is written. */
async function assertGoesOn(server: TestServer, client: Client, written: Written): Promise<void> {
  await until(async () => await writeOne(server, WRITES_MAX - 1) === undefined);
  written.answered.add(WRITES_MAX - 1);
  await assertReadable(client, written);
  const { id } = await client.snapshot({ volumes: ["v"] });
  await client.flush("main");
  assertEquals((await client.getSnapshot(id)).status, "sealed");
  assertEquals((await client.getPool("main")).dirtyEntries, 0);
  await assertReadable(client, written);
  assertEquals((await fetch(`${server.url}/health/ready`)).status, 200);
  server.kill("SIGTERM");
  assertEquals((await server.ended()).code, 0);
}

const REFUSALS = /^(507 disk-full|503 (database-unavailable|outcome-unknown|too-busy)|lost)$/;

function assertRefusals({ refusals }: Written): void {
  assertEquals([...refusals.keys()].filter((refusal) => !REFUSALS.test(refusal)), []);
}

/** Runs a test on a small disk, or tells why not. */
function testOnSmallDisk(
  name: string,
  [sizeBytes, ballastBytes]: [number, number],
  test: (disk: SmallDisk) => Promise<void>,
): void {
  Deno.test(name, async () => {
    const disk = await mountSmallDisk(sizeBytes, ballastBytes);
    if (typeof disk === "string") return console.log(`Skipped, for ${disk}`);
    try {
      await test(disk);
    } finally {
      await disk[Symbol.asyncDispose]();
    }
  });
}

testOnSmallDisk(
  "a full disk under the tables: 507 disk-full, reads go on, and so does everything when there is room",
  [72 * MIB, 24 * MIB],
  async (disk) => {
    await using postgres = await startOwnPostgres();
    const tables = join(disk.path, "tables");
    await Deno.mkdir(tables);
    const admin = openDatabase(postgres.url, { connectionsMax: 1 });
    try {
      const [{ directory }] = await admin.$client`select current_setting('data_directory') as directory`;
      await giveToOwnerOf(tables, directory);
      await admin.$client.unsafe(`create tablespace small location '${tables}'`);
      await admin.$client.unsafe("create database full_of tablespace small");
    } finally {
      await closeDatabase(admin);
    }
    await using server = await startServerProcess({ DATABASE_URL: atDatabase(postgres.url, "full_of") });
    const client = new Client(server.url);
    await client.createVolume({ name: "v", blockCount: VOLUME_BLOCKS });
    const written = await writeUntilFull(server);
    assert(written.answered.size > 0);
    assertEquals([...written.refusals.keys()], ["507 disk-full"]);
    await assertReadable(client, written);
    await disk.makeRoom();
    await assertGoesOn(server, client, written);
  },
);

testOnSmallDisk(
  "a full disk under the log, on which PostgreSQL ends: 503, and the bundled one is started again when there is room",
  [112 * MIB, 32 * MIB],
  async (disk) => {
    const dataDir = await makeDataDirectory();
    const log = join(dataDir, "postgres", "pg_wal");
    try {
      // The first start makes the database; then its log moves.
      await (await startEmbeddedPostgres({ dataDir })).stop();
      await moveTo(join(disk.path, "pg_wal"), log);
      await using server = await startBundledServerProcess(dataDir);
      const client = new Client(server.url);
      await client.createVolume({ name: "v", blockCount: VOLUME_BLOCKS });
      const written = await writeUntilFull(server);
      assert(written.answered.size > 0);
      assertRefusals(written);
      await new Promise((resolve) => setTimeout(resolve, FULL_MS));
      const refusal = await writeOne(server, 0);
      assert(refusal !== undefined && REFUSALS.test(refusal), refusal);
      await disk.makeRoom();
      await assertGoesOn(server, client, written);
    } finally {
      await Deno.remove(dataDir, { recursive: true });
    }
  },
);
