/**
 * SIGKILL of PostgreSQL under pools of relaxed durability: what is lost of what was answered is a tail and never a middle,
 * nothing is lost that a snapshot or a flush came behind, the write verifier tells it, and all goes on without a restart, exact:
 * nobody goes by what he remembers from before.
 *
 * PostgreSQL is told to let its log lie as long as it can, so that there is something to lose.
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { migrate } from "../../src/database/migrate.ts";
import { Storage } from "../../src/storage/storage.ts";
import { until } from "../support/door.ts";
import { below, fill, History, readStamps, seeded } from "../support/history.ts";
import { type OwnPostgres, startOwnPostgres } from "../support/own_postgres.ts";
import { startServerProcess, TEST_TOKEN, type TestServer } from "../support/server.ts";
import { TESTER } from "../support/storage.ts";

const SEED = 2025;
const ROUNDS = 4;
const WRITERS = 4;
const BLOCK_BYTES = 4096;
const VOLUME_BLOCKS = 96;
/** A writer ends here even if nobody kills anything. */
const REQUESTS_MAX = 5_000;

async function startForgetfulPostgres(resources: AsyncDisposableStack): Promise<OwnPostgres> {
  const postgres = resources.use(await startOwnPostgres());
  const database = openDatabase(postgres.url, { connectionsMax: 1 });
  await database.$client.unsafe("alter system set wal_writer_delay = '10s'");
  await database.$client.unsafe("alter system set wal_writer_flush_after = '1GB'");
  // Its commits would bring the log to the disk too.
  await database.$client.unsafe("alter system set autovacuum = off");
  await database.$client.unsafe("select pg_reload_conf()");
  await closeDatabase(database);
  return postgres;
}

interface Told {
  readonly sequence: number;
  readonly lba: number;
  readonly stamp: number;
  readonly writeVerifier: string;
}

class Clients {
  told: Told[] = [];
  unanswered: { lba: number; stamp: number }[] = [];
  #stamp = 0;

  constructor(private readonly server: TestServer, private readonly random: () => number) {}

  // deno-lint-ignore no-explicit-any -- what is in an answer is for the caller to find out
  async call(method: string, path: string, body?: unknown): Promise<any> {
    const isData = body instanceof Uint8Array;
    const response = await fetch(`${this.server.url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${TEST_TOKEN}`,
        ...(body === undefined
          ? {}
          : { "content-type": isData ? "application/octet-stream" : "application/json" }),
      },
      ...(body === undefined ? {} : { body: isData ? body as BodyInit : JSON.stringify(body) }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
  }

  async readVolume(path: string): Promise<number[]> {
    const response = await fetch(`${this.server.url}${path}/blocks/0?count=${VOLUME_BLOCKS}`, {
      headers: { authorization: `Bearer ${TEST_TOKEN}` },
    });
    return readStamps(new Uint8Array(await response.arrayBuffer()), BLOCK_BYTES);
  }

  /** Each writer ends at its first request that fails once PostgreSQL is gone; before, it may meet connections to the last one. */
  async writeUntil(gone: AbortSignal): Promise<void> {
    await Promise.all(Array.from({ length: WRITERS }, () => this.#write(gone)));
  }

  async #write(gone: AbortSignal): Promise<void> {
    for (let request = 0; request < REQUESTS_MAX; request++) {
      const attempt = { lba: below(this.random, VOLUME_BLOCKS), stamp: ++this.#stamp };
      const answer = await this.#put(attempt);
      if (answer !== undefined) {
        assertEquals(answer.durability, "relaxed");
        this.told.push({ ...attempt, sequence: answer.sequence, writeVerifier: answer.writeVerifier });
      } else {
        this.unanswered.push(attempt);
        if (gone.aborted) return;
      }
    }
  }

  /** Answers nothing where the write is refused, or nobody knows. */
  async #put({ lba, stamp }: { lba: number; stamp: number }) {
    return await this.call("PUT", `/volumes/v/blocks/${lba}`, fill(stamp, 1, BLOCK_BYTES)).catch(() =>
      undefined
    );
  }
}

/** Fails unless the stamps are a replay of what was told, but for writes that were never answered. Answers those that happened. */
function assertReplay(
  stamps: number[],
  told: Told[],
  clients: Clients,
  before = Infinity,
): { lba: number; stamp: number }[] {
  const history = new History(VOLUME_BLOCKS);
  for (const { sequence, lba, stamp } of told) {
    history.add(sequence, [{ lba, blockCount: 1, firstStamp: stamp }]);
  }
  return history.replay(before).flatMap((expected, lba) => {
    if (stamps[lba] === expected) return [];
    const attempt = clients.unanswered.find((one) => one.lba === lba && one.stamp === stamps[lba]);
    if (attempt === undefined) {
      throw new Error(`Block ${lba} holds ${stamps[lba]}, answered was ${expected}`);
    }
    return [attempt];
  });
}

Deno.test(`SIGKILL of PostgreSQL loses of relaxed writes a tail and never a middle, and the server goes on (seed ${SEED})`, async () => {
  await using resources = new AsyncDisposableStack();
  const postgres = await startForgetfulPostgres(resources);
  const server = resources.use(await startServerProcess({ DATABASE_URL: postgres.url }));
  const random = seeded(SEED);
  const clients = new Clients(server, random);
  // Each flush would bring the log to the disk.
  const flushPolicy = { kind: "interval", intervalMs: 600_000 };
  await clients.call("PATCH", "/pools/main", { cacheMode: "write-back-relaxed", flushPolicy });
  await clients.call("POST", "/volumes", { name: "v", blockCount: VOLUME_BLOCKS });
  const cuts: { id: string; sequence: number; told: Told[] }[] = [];
  let lostCount = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const killing = new AbortController();
    const writing = clients.writeUntil(killing.signal);
    const first = clients.told.length + 20 + below(random, 60);
    await until(() => Promise.resolve(clients.told.length >= first));
    const cut = await clients.call("POST", "/snapshots", { volumes: ["v"] });
    const enough = clients.told.length + 20 + below(random, 60);
    await until(() => Promise.resolve(clients.told.length >= enough));
    killing.abort();
    await postgres.kill();
    await writing;
    await postgres.start();
    await until(async () => await clients.call("GET", "/pools/main").then(() => true, () => false));
    const { sequenceAppended, writeVerifier } = await clients.call("GET", "/pools/main");
    assert(sequenceAppended >= cut.sequence, "what was ahead of a snapshot is lost");
    const kept = clients.told.filter(({ sequence }) => sequence <= sequenceAppended);
    lostCount += clients.told.length - kept.length;
    for (const one of clients.told) assertNotEquals(one.writeVerifier, writeVerifier);
    const happened = assertReplay(await clients.readVolume("/volumes/v"), kept, clients);
    cuts.push({ id: cut.id, sequence: cut.sequence, told: kept });
    const verifiers = { writeVerifier: "" };
    clients.told = [
      ...kept,
      ...happened.map((attempt) => ({ ...attempt, sequence: sequenceAppended, ...verifiers })),
    ];
  }
  assert(lostCount > 0, "nothing was lost, so nothing was tried");
  const { sequence, writeVerifier } = await clients.call(
    "PUT",
    "/volumes/v/blocks/0",
    fill(9, 1, BLOCK_BYTES),
  );
  clients.told.push({ sequence, lba: 0, stamp: 9, writeVerifier });
  const flushed = await clients.call("POST", "/pools/main/flush");
  assertEquals(flushed.writeVerifier, writeVerifier);
  assertEquals(flushed.sequenceFlushed, sequence);
  assertReplay(await clients.readVolume("/volumes/v"), clients.told, clients);
  for (const { id, sequence, told } of cuts) {
    assertEquals((await clients.call("GET", `/snapshots/${id}`)).status, "sealed");
    assertReplay(await clients.readVolume(`/snapshots/${id}`), told, clients, sequence);
  }
  assertEquals((await clients.call("GET", "/audit/verify")).fault, undefined);
});

interface Pair {
  readonly postgres: OwnPostgres;
  readonly one: Storage;
  readonly other: Storage;
}

/** Two processes' storage systems on one PostgreSQL, without a flusher. */
async function openPair(resources: AsyncDisposableStack): Promise<Pair> {
  const postgres = await startForgetfulPostgres(resources);
  const open = async (): Promise<{ storage: Storage; database: Database }> => {
    const database = openDatabase(postgres.url);
    resources.defer(() => closeDatabase(database, 0));
    await migrate(database);
    const storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
    await storage.start();
    resources.use(storage);
    return { storage, database };
  };
  const { storage: one } = await open();
  const { storage: other } = await open();
  await one.createPool(TESTER, {
    name: "main",
    blockSizeBytes: BLOCK_BYTES,
    segmentBlocks: 1,
    cacheBytesMax: 2 ** 30,
    cacheMode: "write-back-relaxed",
  });
  await one.addDevice(TESTER, { name: "d", blockCount: 1_000 });
  for (const name of ["v", "w"]) await one.createVolume(TESTER, { name, blockCount: VOLUME_BLOCKS });
  return { postgres, one, other };
}

/** Tries again while the connections that were lost are met. */
async function writeAgain(storage: Storage, lba: number, stamp: number): Promise<void> {
  await until(async () =>
    await storage.append(TESTER, "v", undefined, [{ lba, data: fill(stamp, 1, BLOCK_BYTES) }])
      .then(() => true, () => false)
  );
}

async function readAll(storage: Storage): Promise<number[]> {
  const range = { lba: 0, blockCount: VOLUME_BLOCKS };
  return readStamps(await storage.readVolume("v", undefined, range), BLOCK_BYTES);
}

for (const next of ["append", "snapshot"] as const) {
  Deno.test(`a process whose head comes again to where it was, by another's writes behind a crash, forgets the map: ${next} first`, async () => {
    await using resources = new AsyncDisposableStack();
    const { postgres, one, other } = await openPair(resources);
    const signal = AbortSignal.timeout(60_000);
    await one.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, signal);
    // Lost, with the segments that they have taken.
    for (let lba = 0; lba < 5; lba++) await writeAgain(one, lba, 100 + lba);
    const before = await one.getPool("main");
    await postgres.kill();
    await postgres.start();
    await until(async () => await other.getPool("main").then(() => true, () => false));
    const { sequenceAppended: kept } = await other.getPool("main");
    assert(kept < before.sequenceAppended, "nothing was lost, so nothing was tried");
    // As many by another, which get the same segments.
    const end = 50 + before.sequenceAppended - kept;
    for (let lba = 50; lba < end; lba++) await writeAgain(other, lba, 200 + lba);
    assertEquals((await other.getPool("main")).sequenceAppended, before.sequenceAppended);
    if (next === "snapshot") {
      const taking = () => one.takeSnapshot(TESTER, { volumes: ["w"], untilSealed: false }, signal);
      await until(async () => await taking().then(() => true, () => false));
    }
    await writeAgain(one, 4, 300);
    const expected = Array(VOLUME_BLOCKS).fill(0);
    for (let lba = 50; lba < end; lba++) expected[lba] = 200 + lba;
    // The marker has the first sequence.
    for (let lba = 0; lba + 2 <= kept; lba++) expected[lba] = 100 + lba;
    expected[4] = 300;
    assertEquals(await readAll(one), expected);
  });
}

Deno.test("an import into a relaxed pool loses nothing of its middle when PostgreSQL is killed", async () => {
  await using resources = new AsyncDisposableStack();
  const { postgres, one } = await openPair(resources);
  async function* parts() {
    yield { lba: 0, data: fill(1, 40, BLOCK_BYTES) };
    await postgres.kill();
    await postgres.start();
    await until(async () => await one.getPool("main").then(() => true, () => false));
    yield { lba: 40, data: fill(41, 40, BLOCK_BYTES) };
  }
  await one.importVolume(TESTER, "v", undefined, { blockCount: VOLUME_BLOCKS }, parts());
  const imported = Array.from({ length: VOLUME_BLOCKS }, (_, lba) => lba < 80 ? lba + 1 : 0);
  assertEquals(await readAll(one), imported);
});
