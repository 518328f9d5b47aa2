/** `backup` and `restore` of the bundled PostgreSQL, and the commands of README for another one. */

import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { startEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";
import { migrate } from "../../src/database/migrate.ts";
import { Digester } from "../../src/storage/digester.ts";
import { Flusher } from "../../src/storage/flusher.ts";
import { Storage } from "../../src/storage/storage.ts";
import { fill, readStamps } from "../support/history.ts";
import { makeDataDirectory } from "../support/own_postgres.ts";
import { runTask } from "../support/server.ts";
import { BLOCK_BYTES, TESTER, write } from "../support/storage.ts";

const BLOCKS = 16;
const RANGE = { lba: 0, blockCount: BLOCKS };
const limits = STORAGE_LIMITS;
const clock = () => new Date();
const onFault = (error: unknown) => {
  throw error;
};

/** Opens a storage system at `url`, without workers, for as long as `act` takes. */
async function withStorage<T>(
  url: string,
  act: (storage: Storage, database: Database) => Promise<T>,
): Promise<T> {
  const database = openDatabase(url);
  try {
    await migrate(database);
    await using storage = new Storage({ database, limits, flusher: false });
    await storage.start();
    return await act(storage, database);
  } finally {
    await closeDatabase(database);
  }
}

async function flushAll(database: Database): Promise<void> {
  const flusher = new Flusher(database, { limits, clock, onFault });
  while (await flusher.sweep());
}

interface BackedUp {
  readonly sequence: number;
  readonly stamps: number[];
  readonly writeVerifier: string;
}

/** A volume with a snapshot that has its digest, one that is pending, and writes that are still in the queue. */
async function fillStorage(storage: Storage, database: Database): Promise<BackedUp> {
  const shape = { blockSizeBytes: BLOCK_BYTES, segmentBlocks: 4, cacheBytesMax: 2 ** 20 };
  await storage.createPool(TESTER, { name: "main", ...shape });
  await storage.addDevice(TESTER, { name: "main-1", blockCount: 400 });
  await storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  const take = (name: string) =>
    storage.takeSnapshot(TESTER, { pool: "main", name, untilSealed: false }, AbortSignal.timeout(60_000));
  await storage.append(TESTER, "v", undefined, [write(1, 1, 9)]);
  await take("sealed");
  await flushAll(database);
  const digester = new Digester(database, { limits, clock, onFault });
  while (await digester.sweep());
  await storage.append(TESTER, "v", undefined, [write(3, 30, 4)]);
  await take("pending");
  const { sequence } = await storage.append(TESTER, "v", undefined, [write(0, 90)]);
  const { writeVerifier } = await storage.getPool("main");
  const stamps = readStamps(await storage.readVolume("v", undefined, RANGE), BLOCK_BYTES);
  return { sequence, stamps, writeVerifier };
}

/** What was backed up is there, the queue goes on from its point, and what was pending is sealed with the right contents. */
async function assertRestored(
  storage: Storage,
  database: Database,
  { sequence, stamps, writeVerifier }: BackedUp,
): Promise<void> {
  const read = async (snapshot?: string) =>
    readStamps(
      snapshot === undefined
        ? await storage.readVolume("v", undefined, RANGE)
        : await storage.readSnapshot(snapshot, undefined, undefined, RANGE),
      BLOCK_BYTES,
    );
  assertEquals(await read(), stamps);
  await flushAll(database);
  assertEquals(await read(), stamps);
  assertEquals(await read("pending"), stamps.with(0, 0));
  assertEquals((await storage.getSnapshot("pending")).status, "sealed");
  assertEquals((await storage.getSnapshot("sealed")).verification?.intact, true);
  const next = await storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(7, 1, BLOCK_BYTES) }]);
  assertEquals(next.sequence, sequence + 1);
  assertNotEquals((await storage.getPool("main")).writeVerifier, writeVerifier);
  assertEquals(await read(), stamps.with(0, 7));
}

Deno.test("backup copies what the bundled PostgreSQL has, restore puts it in place elsewhere: all verifies, and writes go on", async () => {
  const [dataDir, elsewhere, scratch] = await Promise.all([
    makeDataDirectory(),
    makeDataDirectory(),
    Deno.makeTempDir({ prefix: "snapmark-test-" }),
  ]);
  const backup = join(scratch, "backups", "first");
  const backUp = (to: string) => runTask("backup", { SNAPMARK_DATA_DIR: dataDir }, ["--to", to]);
  const restore = (to: string, from = backup) =>
    runTask("restore", { SNAPMARK_DATA_DIR: to }, ["--from", from]);
  try {
    let backedUp: BackedUp;
    {
      await using postgres = await startEmbeddedPostgres({ dataDir });
      backedUp = await withStorage(postgres.url, fillStorage);
      await Deno.writeTextFile(join(dataDir, "admin-token"), "token-of-the-backup\n");
      const running = await backUp(backup);
      assertEquals(running.code, 1);
      assertStringIncludes(running.stderr, "another Snapmark server");
    }
    const made = await backUp(backup);
    assertEquals([made.code, made.stderr], [0, ""]);
    assertStringIncludes(made.stdout, `Backed up ${dataDir} to ${backup}: `);
    const twice = await backUp(backup);
    assertEquals(twice.code, 1);
    assertStringIncludes(twice.stderr, "it is there already");
    {
      // What comes later is not in it.
      await using postgres = await startEmbeddedPostgres({ dataDir });
      await withStorage(postgres.url, (storage) => storage.append(TESTER, "v", undefined, [write(5, 500)]));
    }
    const restored = await restore(elsewhere);
    assertEquals([restored.code, restored.stderr], [0, ""]);
    assertEquals(await Deno.readTextFile(join(elsewhere, "admin-token")), "token-of-the-backup\n");
    const verified = await runTask("verify", { SNAPMARK_DATA_DIR: elsewhere });
    assertEquals([verified.code, verified.stderr], [0, ""]);
    assertStringIncludes(verified.stdout, "Snapshots: 1 fit their digest, 0 do not, 0 have none yet");
    {
      await using postgres = await startEmbeddedPostgres({ dataDir: elsewhere });
      await withStorage(postgres.url, (storage, database) => assertRestored(storage, database, backedUp));
    }
    const over = await restore(elsewhere);
    assertEquals(over.code, 1);
    assertStringIncludes(over.stderr, "there is a database in");
  } finally {
    for (const path of [dataDir, elsewhere, scratch]) await Deno.remove(path, { recursive: true });
  }
});

Deno.test("backup and restore refuse what they cannot do, and leave nothing behind", async () => {
  const [dataDir, scratch] = await Promise.all([
    makeDataDirectory(),
    Deno.makeTempDir({ prefix: "snapmark-test-" }),
  ]);
  const environment = { SNAPMARK_DATA_DIR: dataDir };
  const refused = async (task: string, args: string[], reason: string, more = {}) => {
    const { code, stderr } = await runTask(task, { ...environment, ...more }, args);
    assertEquals(code, 1);
    assertStringIncludes(stderr, reason);
  };
  try {
    const [target, damaged] = [join(scratch, "backup"), join(scratch, "damaged")];
    await refused("backup", ["--to", target], "there is no database in it");
    await refused("backup", [], "expected --to DIRECTORY");
    await refused("restore", [], "expected --from DIRECTORY");
    await refused("restore", ["--from", scratch], "expected a backup");
    const DATABASE_URL = "postgres://nobody@127.0.0.1:1/none";
    await refused("backup", ["--to", target], "PostgreSQL's own tools", { DATABASE_URL });
    await refused("restore", ["--from", target], "PostgreSQL's own tools", { DATABASE_URL });
    // A file is missing from the copy.
    await Deno.mkdir(join(damaged, "postgres"), { recursive: true });
    await Deno.writeTextFile(join(damaged, "postgres", "PG_VERSION"), "18\n");
    const manifest = { format: 1, postgres: "18", madeAt: new Date().toISOString(), fileCount: 2, bytes: 9 };
    await Deno.writeTextFile(join(damaged, "backup.json"), JSON.stringify(manifest));
    await refused("restore", ["--from", damaged], "expected 2 files of 9 bytes, found 1 of 3");
    const left = [...Deno.readDirSync(dataDir)].map(({ name }) => name).filter((name) =>
      name !== "server.lock"
    );
    assertEquals(left, []);
    assertEquals([...Deno.readDirSync(scratch)].map(({ name }) => name), ["damaged"]);
  } finally {
    for (const path of [dataDir, scratch]) await Deno.remove(path, { recursive: true });
  }
});

// Another PostgreSQL

const TOOLS = "/usr/lib/postgresql/15/bin";
const README = new URL("../../README.md", import.meta.url);

async function isThere(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

const HAS_TOOLS = await isThere(join(TOOLS, "initdb")) && await isThere(join(TOOLS, "pg_dump"));
if (!HAS_TOOLS) console.warn(`No PostgreSQL 15 in ${TOOLS}: README's commands for pg_dump are not tried`);

/** The commands of README that dump and restore. */
async function readCommands(): Promise<string> {
  const [, commands] = (await Deno.readTextFile(README)).match(/```sh\n(pg_dump --format[^]*?)```/) ?? [];
  assert(commands !== undefined, "README has the commands");
  return commands;
}

/** Runs a shell's commands as whoever may run PostgreSQL. */
async function run(
  commands: string,
  directory: string,
  environment: Record<string, string> = {},
): Promise<void> {
  const owner = Deno.uid() === 0 ? await Deno.stat(directory) : undefined;
  const { code, stdout, stderr } = await new Deno.Command("/bin/sh", {
    args: ["-e", "-c", commands],
    cwd: directory,
    clearEnv: true,
    env: { PATH: `${TOOLS}:/usr/bin:/bin`, LC_ALL: "C", ...environment },
    ...(owner === undefined ? {} : { uid: owner.uid as number, gid: owner.gid as number }),
    signal: AbortSignal.timeout(120_000),
  }).output();
  const text = new TextDecoder();
  assertEquals(code, 0, `${commands}: ${text.decode(stdout)}${text.decode(stderr)}`);
}

/** A directory for a user that may run PostgreSQL: root may not. */
async function makeOwnDirectory(): Promise<string> {
  const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  if (Deno.uid() !== 0) return directory;
  const users = (await Deno.readTextFile("/etc/passwd")).split("\n").map((line) => line.split(":"));
  const [, , uid, gid] = users.find(([name]) => name === "postgres" || name === "nobody") as string[];
  await Deno.chown(directory, Number(uid), Number(gid));
  return directory;
}

Deno.test({
  name: "README's commands back up and restore another PostgreSQL: all verifies, and writes go on",
  ignore: !HAS_TOOLS,
  fn: async () => {
    const directory = await makeOwnDirectory();
    const urlOf = (name: string) => `postgres://snapmark@${encodeURIComponent(directory)}/${name}`;
    const server =
      `-o "-c listen_addresses='' -c unix_socket_directories='${directory}'" -l log -D data -s -w`;
    try {
      await run(`initdb -D data -U snapmark -A trust -E UTF8 > log; pg_ctl start ${server}`, directory);
      try {
        await run(`createdb -h '${directory}' -U snapmark snapmark`, directory);
        const backedUp = await withStorage(urlOf("snapmark"), fillStorage);
        const environment = { DATABASE_URL: urlOf("snapmark"), RESTORED_URL: urlOf("restored") };
        await run(await readCommands(), directory, environment);
        await withStorage(
          urlOf("snapmark"),
          (storage) => storage.append(TESTER, "v", undefined, [write(5, 500)]),
        );
        const verified = await runTask("verify", { DATABASE_URL: urlOf("restored") });
        assertEquals([verified.code, verified.stderr], [0, ""]);
        assertStringIncludes(verified.stdout, "Snapshots: 1 fit their digest, 0 do not, 0 have none yet");
        await withStorage(
          urlOf("restored"),
          (storage, database) => assertRestored(storage, database, backedUp),
        );
      } finally {
        await run("pg_ctl stop -D data -s -m fast", directory);
      }
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});
