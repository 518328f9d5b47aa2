/** Tests of the bundled PostgreSQL, with real servers that are killed in every way a machine can kill them. */
import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects } from "@std/assert";
import { dirname, fromFileUrl, join } from "@std/path";
import postgres from "postgres";
import { setTimeout as delay } from "node:timers/promises";
import { EmbeddedPostgresError } from "../../src/database/embedded/embedded_error.ts";
import {
  type EmbeddedConnection,
  findEmbeddedPostgres,
  startEmbeddedPostgres,
} from "../../src/database/embedded/embedded_postgres.ts";
import { findHome, openHome } from "../../src/database/embedded/home.ts";
import { parsePostmaster } from "../../src/database/embedded/postmaster.ts";
import { readMemoryBytes } from "../../src/database/embedded/memory.ts";
import { toServerOptions, toSharedBuffersMib } from "../../src/database/embedded/settings.ts";

/** Bounds every wait below: far above the 3 seconds the slowest step takes. */
const WAIT_LIMIT_MS = 20_000;

const IS_ROOT = Deno.uid() === 0;

/** A data directory as a first start leaves it, to copy: making one takes 2 seconds. */
let template: TestDirectory;

Deno.test.beforeAll(async () => {
  template = await createDirectory();
  await (await startEmbeddedPostgres({ dataDir: template.path })).stop();
});

Deno.test.afterAll(async () => await template[Symbol.asyncDispose]());

interface TestDirectory extends AsyncDisposable {
  path: string;
}

/** An empty directory of its own for one test. */
async function createDirectory(): Promise<TestDirectory> {
  const path = await Deno.makeTempDir({ prefix: "snapmark_embedded_test_" });
  // A temporary directory is closed to others: root's server could not reach it.
  await Deno.chmod(path, 0o755);
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** A data directory of its own for one test, with a database that is not running. */
async function createDataDirectory(name = "data"): Promise<TestDirectory> {
  const directory = await createDirectory();
  const path = join(directory.path, name);
  await Deno.mkdir(path, { recursive: true });
  for await (const entry of Deno.readDir(template.path)) {
    // The programs are only read, so links to them will do.
    const how = entry.name.startsWith("postgres-runtime-") ? "-al" : "-a";
    const args = [how, join(template.path, entry.name), path];
    assert((await new Deno.Command("cp", { args }).output()).success);
  }
  return { ...directory, path };
}

async function waitUntil(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + WAIT_LIMIT_MS;
  while (!await condition()) {
    assert(Date.now() < deadline, `Waited ${WAIT_LIMIT_MS} ms until ${what}`);
    await delay(10);
  }
}

async function query(connection: EmbeddedConnection, statement: string): Promise<Record<string, unknown>[]> {
  const sql = postgres({ ...connection, max: 1, onnotice: () => {} });
  try {
    return [...await sql.unsafe(statement)];
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** The processes of a server: the main one first. */
async function listProcesses(dataDir: string, connection: EmbeddedConnection): Promise<number[]> {
  const rows = await query(connection, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
  return [await readMainProcess(dataDir), ...rows.map((row) => Number(row.pid))];
}

async function readMainProcess(dataDir: string): Promise<number> {
  return Number((await Deno.readTextFile(join(dataDir, "postgres/postmaster.pid"))).split("\n", 1)[0]);
}

function isAlive(processId: number): boolean {
  try {
    Deno.kill(processId, "SIGCONT");
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Starts the bundled PostgreSQL in a process of its own and returns once it has printed a certain line. */
async function startProcess(dataDir: string, until: RegExp): Promise<Deno.ChildProcess & AsyncDisposable> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", fromFileUrl(import.meta.resolve("./embedded_process.ts")), dataDir],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), WAIT_LIMIT_MS);
  let printed = "";
  for await (
    const text of child.stdout.pipeThrough(new TextDecoderStream()).values({ preventCancel: false })
  ) {
    printed += text;
    if (until.test(printed)) break;
  }
  clearTimeout(timer);
  assertMatch(printed, until);
  return child;
}

Deno.test("startEmbeddedPostgres() creates a database that a later start finds again", async () => {
  await using data = await createDirectory();
  const lines: string[] = [];
  const onProgress = (line: string) => lines.push(line.replace(/ .*/, ""));

  const first = await startEmbeddedPostgres({ dataDir: data.path, onProgress });
  assertEquals(lines, ["Copying", "Creating", "Starting"]);
  const socketDirectory = join(await Deno.realPath(data.path), "run");
  assertEquals(first.connection, {
    host: socketDirectory,
    port: 5432,
    user: "snapmark",
    database: "snapmark",
  });
  assertEquals(first.url, `postgres://snapmark@${encodeURIComponent(socketDirectory)}:5432/snapmark`);
  await query(first.connection, "CREATE TABLE kept AS SELECT 7 AS number");
  assertEquals((await Deno.stat(socketDirectory)).mode! & 0o777, 0o700);
  const main = await readMainProcess(data.path);
  await Promise.all([first.stop(), first.stop()]);
  await waitUntil(() => !isAlive(main), "PostgreSQL is gone");

  lines.length = 0;
  await using second = await startEmbeddedPostgres({ dataDir: data.path, onProgress });
  assertEquals(lines, ["Starting"]);
  assertEquals(await query(second.connection, "SELECT number FROM kept"), [{ number: 7 }]);
});

Deno.test("startEmbeddedPostgres() keeps durability at PostgreSQL's defaults and stays off the network", async () => {
  await using data = await createDataDirectory();
  await using server = await startEmbeddedPostgres({ dataDir: data.path });
  const names = ["fsync", "synchronous_commit", "full_page_writes", "data_checksums", "listen_addresses"];
  const shown = names.map((name) => `current_setting('${name}') AS ${name}`);
  assertEquals(await query(server.connection, `SELECT ${shown}, upper('é') AS letter`), [{
    fsync: "on",
    synchronous_commit: "on",
    full_page_writes: "on",
    data_checksums: "on",
    listen_addresses: "",
    letter: "É",
  }]);
  const rules = await query(server.connection, "SELECT type, auth_method FROM pg_hba_file_rules");
  assert(rules.every(({ type, auth_method }) => (auth_method === "trust") === (type === "local")));
});

Deno.test("startEmbeddedPostgres() works in a directory too deep for a socket, with an odd name", async () => {
  await using data = await createDataDirectory(join("it's 100%, é: (odd)", "deep".repeat(25)));
  const dataDir = data.path;
  const server = await startEmbeddedPostgres({ dataDir });
  assertMatch(server.connection.host, /^\/tmp\/snapmark-[^/]+$/);
  assertEquals((await findEmbeddedPostgres(dataDir)).connection, server.connection);
  await query(server.connection, "SELECT");
  await server.stop();
  await assertRejects(() => Deno.stat(server.connection.host), Deno.errors.NotFound);
});

Deno.test("startEmbeddedPostgres() works in a directory whose name has a space, a quote and a percent sign", async () => {
  await using data = await createDataDirectory("it's 100%");
  await using server = await startEmbeddedPostgres({ dataDir: data.path });
  assertEquals(server.connection.host, join(await Deno.realPath(data.path), "run"));
  await query(server.connection, "SELECT");
});

Deno.test("startEmbeddedPostgres() recovers after all of PostgreSQL is killed", async () => {
  await using data = await createDataDirectory("deep".repeat(25));
  const dataDir = data.path;
  const killed = await startEmbeddedPostgres({ dataDir });
  await query(killed.connection, "CREATE TABLE kept AS SELECT 7 AS number");
  const processes = await listProcesses(dataDir, killed.connection);
  for (const processId of processes) Deno.kill(processId, "SIGKILL");
  await waitUntil(() => !processes.some(isAlive), "all processes are gone");
  await killed.stop();
  await Deno.stat(join(dataDir, "postgres/postmaster.pid"));
  await assertRejects(
    () => findEmbeddedPostgres(dataDir),
    EmbeddedPostgresError,
    "start the Snapmark server",
  );

  await using server = await startEmbeddedPostgres({ dataDir });
  assertEquals(await query(server.connection, "SELECT number FROM kept"), [{ number: 7 }]);
  await assertRejects(() => Deno.stat(killed.connection.host), Deno.errors.NotFound);
});

Deno.test("startEmbeddedPostgres() recovers after PostgreSQL's main process alone is killed", async () => {
  await using data = await createDataDirectory();
  const killed = await startEmbeddedPostgres({ dataDir: data.path });
  Deno.kill(await readMainProcess(data.path), "SIGKILL");
  await killed.stop();
  await using server = await startEmbeddedPostgres({ dataDir: data.path });
  await query(server.connection, "SELECT");
});

Deno.test("startEmbeddedPostgres() signals no stranger whose number is in postmaster.pid", async () => {
  await using data = await createDataDirectory();
  const { uid, gid } = await Deno.stat(join(data.path, "postgres"));
  // PostgreSQL believes a number that is alive and of its own user.
  const options = IS_ROOT ? { uid: uid!, gid: gid! } : {};
  const stranger = new Deno.Command("sleep", { args: ["60"], cwd: "/", ...options }).spawn();
  const file = join(data.path, "postgres/postmaster.pid");
  const text = [stranger.pid, join(data.path, "postgres"), 0, 5432, join(data.path, "run"), "", ""].join(
    "\n",
  );
  await Deno.writeTextFile(file, text);
  await Deno.mkdir(join(data.path, "run"), { recursive: true });
  await Deno.writeTextFile(join(data.path, "run/.s.PGSQL.5432.lock"), text);

  const server = await startEmbeddedPostgres({ dataDir: data.path });
  assertNotEquals(await readMainProcess(data.path), stranger.pid);
  await server.stop();
  await Deno.writeTextFile(file, text);
  await server.stop();
  assert(isAlive(stranger.pid));
  stranger.kill("SIGKILL");
  await stranger.status;
});

Deno.test("startEmbeddedPostgres() refuses a data directory in use, and adopts its PostgreSQL once we are killed", async () => {
  await using data = await createDataDirectory();
  const child = await startProcess(data.path, /^ready$/m);
  await assertRejects(
    () => startEmbeddedPostgres({ dataDir: data.path }),
    Error,
    `: another Snapmark server (process ${child.pid}) is using it`,
  );
  const found = await findEmbeddedPostgres(data.path);
  const main = await readMainProcess(data.path);

  child.kill("SIGKILL");
  await child.status;
  assert(isAlive(main));
  const lines: string[] = [];
  const server = await startEmbeddedPostgres({ dataDir: data.path, onProgress: (line) => lines.push(line) });
  assertEquals(lines, [`Adopting the PostgreSQL that still runs on it (process ${main})`]);
  assertEquals(server.connection, found.connection);
  await query(server.connection, "SELECT");
  await server.stop();
  await waitUntil(() => !isAlive(main), "PostgreSQL is gone");
});

Deno.test("startEmbeddedPostgres() replaces a PostgreSQL of its own whose socket is gone", async () => {
  await using data = await createDataDirectory();
  const child = await startProcess(data.path, /^ready$/m);
  const main = await readMainProcess(data.path);
  child.kill("SIGKILL");
  await child.status;
  await Deno.remove(join(data.path, "run"), { recursive: true });
  await using server = await startEmbeddedPostgres({ dataDir: data.path });
  await waitUntil(() => !isAlive(main), "PostgreSQL is gone");
  await query(server.connection, "SELECT");
});

Deno.test("startEmbeddedPostgres() starts over after it was killed while it made the database", async () => {
  await using data = await createDirectory();
  for (const step of [/^Copying/m, /^Creating/m, /^Starting/m]) {
    const child = await startProcess(data.path, step);
    child.kill("SIGKILL");
    await child.status;
  }
  const server = await startEmbeddedPostgres({ dataDir: data.path });
  await query(server.connection, "SELECT");
  await server.stop();
  const names = (await Array.fromAsync(Deno.readDir(data.path))).map((entry) => entry.name).sort();
  const runtime = names.find((name) => name.startsWith("postgres-runtime-"))!;
  assertEquals(names, ["postgres", runtime, "postgres.log", "run", "server.lock"]);
});

Deno.test("server.lock has the process of the server while it runs, and none when it has stopped", async () => {
  await using data = await createDataDirectory();
  const file = join(data.path, "server.lock");
  const server = await startEmbeddedPostgres({ dataDir: data.path });
  assertEquals(await Deno.readTextFile(file), `${Deno.pid}\n`);
  await server.stop();
  assertEquals(await Deno.readTextFile(file), "");
});

Deno.test("startEmbeddedPostgres() gives up when its signal is aborted, and leaves nothing behind", async () => {
  await using data = await createDataDirectory();
  await Deno.remove(join(data.path, "postgres"), { recursive: true });
  for (const step of ["Creating", "Starting"]) {
    const abort = new AbortController();
    const reason = new Error(`Stopped at ${step}`);
    const onProgress = (line: string) => {
      if (line.startsWith(step)) setTimeout(() => abort.abort(reason), 1);
    };
    const error = await assertRejects(() =>
      startEmbeddedPostgres({ dataDir: data.path, signal: abort.signal, onProgress })
    );
    assertEquals(error, reason);
  }
  await assertRejects(() => findEmbeddedPostgres(data.path), EmbeddedPostgresError);
  await using server = await startEmbeddedPostgres({ dataDir: data.path });
  await query(server.connection, "SELECT");
});

Deno.test("startEmbeddedPostgres() says what PostgreSQL logged and what to set when it cannot start", async () => {
  await using data = await createDataDirectory();
  const file = join(data.path, "postgres/postgresql.conf");
  const before = await Deno.readTextFile(file);
  await Deno.writeTextFile(file, "work_mem = nonsense\n");
  const error = await assertRejects(
    () => startEmbeddedPostgres({ dataDir: data.path }),
    EmbeddedPostgresError,
  );
  assertMatch(
    error.message,
    /^Cannot start PostgreSQL in .*\n(.*\n)*.*invalid value for parameter "work_mem"/,
  );
  assertMatch(error.message, /SNAPMARK_DATA_DIR .* DATABASE_URL/);

  await Deno.writeTextFile(file, before);
  await using server = await startEmbeddedPostgres({ dataDir: data.path });
  await query(server.connection, "SELECT");
});

Deno.test("startEmbeddedPostgres() refuses a database of another PostgreSQL version", async () => {
  await using data = await createDataDirectory();
  await Deno.writeTextFile(join(data.path, "postgres/PG_VERSION"), "17\n");
  await assertRejects(
    () => startEmbeddedPostgres({ dataDir: data.path }),
    EmbeddedPostgresError,
    "its database is of PostgreSQL 17, the bundled one is 18",
  );
});

Deno.test("startEmbeddedPostgres() refuses a path PostgreSQL's programs cannot quote", async () => {
  await using data = await createDirectory();
  await assertRejects(
    () => startEmbeddedPostgres({ dataDir: join(data.path, "a$HOME") }),
    EmbeddedPostgresError,
    "do not work below a path with",
  );
});

Deno.test("findEmbeddedPostgres() throws when nothing runs", async () => {
  await using data = await createDirectory();
  for (const dataDir of [data.path, join(data.path, "missing")]) {
    await assertRejects(
      () => findEmbeddedPostgres(dataDir),
      EmbeddedPostgresError,
      "start the Snapmark server first",
    );
  }
});

Deno.test({
  name:
    "startEmbeddedPostgres() as root keeps the database of an unreachable data directory elsewhere, and finds it",
  ignore: !IS_ROOT,
  async fn() {
    await using data = await createDirectory();
    await Deno.chmod(data.path, 0o700);
    const dataDir = join(data.path, "data");
    const first = await startEmbeddedPostgres({ dataDir });
    const location = join(dataDir, "postgres-location");
    const home = (await Deno.readTextFile(location)).split("\n", 1)[0];
    await using _removal = { [Symbol.asyncDispose]: () => Deno.remove(home, { recursive: true }) };
    assertEquals(dirname(home), "/var/lib/snapmark");
    assertEquals(first.connection.host, join(home, "run"));
    await query(first.connection, "CREATE TABLE kept AS SELECT 7 AS number");
    await first.stop();

    await using second = await startEmbeddedPostgres({ dataDir });
    assertEquals((await findEmbeddedPostgres(dataDir)).connection, second.connection);
    assertEquals(await query(second.connection, "SELECT number FROM kept"), [{ number: 7 }]);
    const copy = join(data.path, "copy");
    await Deno.mkdir(copy);
    await Deno.copyFile(location, join(copy, "postgres-location"));
    await assertRejects(
      () => startEmbeddedPostgres({ dataDir: copy }),
      Error,
      `Cannot start on ${home}: another`,
    );
  },
});

Deno.test({
  name: "openHome() as root finds an unreachable data directory's home again, and gives a new one another",
  ignore: !IS_ROOT,
  async fn() {
    await using data = await createDirectory();
    await Deno.chmod(data.path, 0o700);
    const { directory } = await openHome(data.path);
    await using removals = new AsyncDisposableStack();
    removals.defer(() => Deno.remove(directory));
    assertEquals((await openHome(data.path)).directory, directory);
    assertEquals((await findHome(data.path)).directory, directory);

    await Deno.remove(join(data.path, "postgres-location"));
    const { directory: another } = await openHome(data.path);
    assertEquals(another, `${directory}-2`);

    await Deno.remove(another);
    await assertRejects(() => openHome(data.path), EmbeddedPostgresError, "which does not exist");
  },
});

Deno.test({
  name:
    "startEmbeddedPostgres() as root does not start an empty database when the one there is gets unreachable",
  ignore: !IS_ROOT,
  async fn() {
    await using data = await createDataDirectory();
    const dataDir = data.path;
    await Deno.chmod(dirname(dataDir), 0o700);
    await assertRejects(() => startEmbeddedPostgres({ dataDir }), EmbeddedPostgresError, "cannot reach");
    await assertRejects(() => Deno.stat(join(dataDir, "postgres-location")), Deno.errors.NotFound);
  },
});

Deno.test("parsePostmaster() takes nothing from a file that is empty, or of a single-user session", () => {
  assertEquals(parsePostmaster(""), null);
  assertEquals(parsePostmaster("-12\n/data\n"), null);
  assertEquals(parsePostmaster("12\n/data\n1700000000\n5432\n"), {
    processId: 12,
    port: 5432,
    socketDirectory: null,
  });
  assertEquals(
    parsePostmaster("12\n/data\n1700000000\n5432\n/run\n\n  5432001         3\nready   \n"),
    { processId: 12, port: 5432, socketDirectory: "/run" },
  );
});

Deno.test("toServerOptions() quotes a directory for a shell and for a list", () => {
  const options = toServerOptions("/it's, here", 2 ** 30);
  assert(options.endsWith(`-c 'unix_socket_directories="/it'\\''s, here"'`), options);
  assert(options.includes("-c 'listen_addresses='"), options);
});

Deno.test("toSharedBuffersMib() is an eighth of the memory, within bounds", () => {
  const GIB = 2 ** 30;
  assertEquals([0.5, 1, 8, 24, 512].map((gib) => toSharedBuffersMib(gib * GIB)), [
    128,
    128,
    1024,
    3072,
    4096,
  ]);
});

Deno.test("readMemoryBytes() is what a container may use, or else the machine's", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const write = async (name: string, text: string) => {
      await Deno.writeTextFile(`${directory}/${name}`, text);
      return `${directory}/${name}`;
    };
    assertEquals(await readMemoryBytes([await write("limited", "1048576\n")]), 1_048_576);
    const { total } = Deno.systemMemoryInfo();
    assertEquals(await readMemoryBytes([await write("free", "max\n"), `${directory}/missing`]), total);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
