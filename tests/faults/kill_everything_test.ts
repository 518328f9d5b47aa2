/**
 * Invariant 1, the hard way: SIGKILL of the server and of every process of its PostgreSQL while clients write. What was
 * answered is there after the next start; pending snapshots seal and are exact; sequences go on.
 */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { findEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";
import { Client } from "../support/client.ts";
import { below, fill, History, readStamps, seeded } from "../support/history.ts";
import { startBundledServerProcess, type TestServer } from "../support/server.ts";

const BLOCK_BYTES = 4096;
const VOLUME_BLOCKS = 128;
const ROUNDS = 3;
/** A client ends here even if nobody kills the server. */
const REQUESTS_MAX = 5_000;
const SEED = 1122;

/** The processes of the PostgreSQL on a data directory: the postmaster and all that it has started. */
async function findPostgres(dataDir: string): Promise<number[]> {
  const file = await Deno.readTextFile(join(dataDir, "postgres", "postmaster.pid"));
  const database = openDatabase((await findEmbeddedPostgres(dataDir)).url, { connectionsMax: 1 });
  try {
    const rows = await database.$client<{ pid: number }[]>`select pid from pg_stat_activity`;
    return [Number(file.split("\n")[0]), ...rows.map(({ pid }) => pid)];
  } finally {
    await closeDatabase(database);
  }
}

interface Attempt {
  readonly lba: number;
  readonly stamp: number;
}

/** What the clients know: what was answered, and what was not, so may have happened or not. */
class Knowledge {
  readonly history = new History(VOLUME_BLOCKS);
  readonly cuts: { id: string; sequence: number }[] = [];
  readonly #unanswered: Attempt[] = [];
  #stamp = 0;

  nextStamp(): number {
    return ++this.#stamp;
  }

  addUnanswered(attempt: Attempt): void {
    this.#unanswered.push(attempt);
  }

  /** Fails unless each block is as answered, or as a write has left it that was never answered. Returns those. */
  check(bytes: Uint8Array, before = Infinity): Attempt[] {
    const answered = this.history.replay(before);
    return readStamps(bytes, BLOCK_BYTES).flatMap((stamp, lba) => {
      if (stamp === answered[lba]) return [];
      const attempt = this.#unanswered.find((one) => one.lba === lba && one.stamp === stamp);
      if (attempt === undefined) {
        throw new Error(`Block ${lba} holds ${stamp}, answered was ${answered[lba]}`);
      }
      return [attempt];
    });
  }
}

/** One client after another request until the server is gone. */
async function writeUntilGone(client: Client, random: () => number, known: Knowledge): Promise<void> {
  for (let request = 0; request < REQUESTS_MAX; request++) {
    const attempt = { lba: below(random, VOLUME_BLOCKS), stamp: known.nextStamp() };
    try {
      const { sequence } = await client.write("disk", attempt.lba, fill(attempt.stamp, 1, BLOCK_BYTES));
      known.history.add(sequence, [{ lba: attempt.lba, blockCount: 1, firstStamp: attempt.stamp }]);
    } catch {
      return known.addUnanswered(attempt);
    }
  }
}

async function snapshotUntilGone(client: Client, known: Knowledge): Promise<void> {
  for (let request = 0; request < REQUESTS_MAX; request++) {
    try {
      known.cuts.push(await client.snapshot({ volumes: ["disk"] }));
    } catch {
      return;
    }
  }
}

/** Lets clients write and snapshot, and kills everything once enough was answered. */
async function killAmidWrites(
  server: TestServer,
  client: Client,
  dataDir: string,
  random: () => number,
  known: Knowledge,
) {
  const enough = known.history.length + 40 + below(random, 200);
  const writers = Array.from(
    { length: 4 },
    (_, i) => writeUntilGone(client, seeded(SEED + i + enough), known),
  );
  const snapshotter = snapshotUntilGone(client, known);
  const postgres = await findPostgres(dataDir);
  while (known.history.length < enough) await client.getPool("main");
  for (const pid of [server.pid, ...postgres]) {
    try {
      Deno.kill(pid, "SIGKILL");
    } catch {
      // It is gone already: the connection that found the others, or a worker that had ended.
    }
  }
  await Promise.all([...writers, snapshotter, server.ended()]);
}

/** After a start: all that was answered is there, every cut seals and is exact. */
async function verify(client: Client, known: Knowledge, greatest: number): Promise<void> {
  const { sequenceAppended } = await client.getPool("main");
  assert(
    sequenceAppended >= greatest,
    `sequence ${greatest} was answered, the queue ends at ${sequenceAppended}`,
  );
  const happened = known.check(await client.readVolume("disk", VOLUME_BLOCKS));
  await client.flush("main");
  for (const { id, sequence } of known.cuts) {
    assertEquals((await client.getSnapshot(id)).status, "sealed");
    known.check(await client.readSnapshot(id, "disk", VOLUME_BLOCKS), sequence);
  }
  for (const { lba, stamp } of happened) {
    known.history.add(sequenceAppended, [{ lba, blockCount: 1, firstStamp: stamp }]);
  }
}

for (const cacheMode of ["write-back", "write-through"]) {
  Deno.test(`SIGKILL of server and PostgreSQL at random moments loses nothing that was answered, in ${cacheMode} (seed ${SEED})`, async () => {
    const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
    // PostgreSQL runs as another user when we are root, and has to get through.
    await Deno.chmod(dataDir, 0o711);
    const random = seeded(SEED);
    const known = new Knowledge();
    try {
      for (let round = 0; round <= ROUNDS; round++) {
        await using server = await startBundledServerProcess(dataDir);
        const client = new Client(server.url);
        if (round === 0) {
          await client.createVolume({ name: "disk", blockCount: VOLUME_BLOCKS });
          await client.changePool("main", { cacheMode });
        }
        await verify(client, known, Math.max(0, ...known.cuts.map(({ sequence }) => sequence)));
        if (round < ROUNDS) await killAmidWrites(server, client, dataDir, random, known);
        else {
          server.kill("SIGTERM");
          assertEquals((await server.ended()).code, 0);
        }
      }
      assert(known.cuts.length > 0 && known.history.length > 100);
    } finally {
      await Deno.remove(dataDir, { recursive: true });
    }
  });
}
