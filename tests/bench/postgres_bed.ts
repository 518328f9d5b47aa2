/**
 * The bed on a bundled PostgreSQL in a temporary directory: as installed, with its default durability.
 */

import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { startEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";
import { migrate } from "../../src/database/migrate.ts";
import { atDatabase } from "../support/database.ts";
import type { Bed, BenchDatabase, BenchServer } from "./bed.ts";
import { startProcess } from "./child_process.ts";
import { LoadGenerators } from "./load_generator.ts";
import { findWrk } from "./load_wrk.ts";

const TOKEN = "bench-token-0123456789";
const TEMPLATE = "bench_template";
const GIB = 2 ** 30;
/** Being full is not what is measured. */
const CACHE_BYTES = 16 * GIB;
const DEVICE_BYTES = 256 * GIB;
/** Gigabytes may have to be written out, which no statement of Snapmark's does. */
const CHECKPOINT_LIMIT = "120s";

/** 1 GiB of log, in the files that PostgreSQL keeps it in. */
const LOG_FILES = 64;
const LOG_FILE_BYTES = 16 * 2 ** 20;

export interface BedOptions {
  readonly quick: boolean;
  readonly repetitions: number;
  readonly onProgress: (line: string) => void;
  /** Leaves the start of PostgreSQL. */
  readonly signal: AbortSignal;
}

export interface PostgresBed extends Bed {
  /** The server's version. */
  readonly postgres: string;
}

/** Starts PostgreSQL. Dispose of it to stop it and remove its data. */
export async function openPostgresBed(
  { quick, repetitions, onProgress, signal }: BedOptions,
): Promise<PostgresBed> {
  await using undo = new AsyncDisposableStack();
  const directory = await Deno.makeTempDir({ prefix: "snapmark-bench-" });
  undo.defer(() => Deno.remove(directory, { recursive: true }));
  // PostgreSQL runs as another user when we are root, and has to get through.
  await Deno.chmod(directory, 0o711);
  const { url } = undo.use(await startEmbeddedPostgres({ dataDir: directory, onProgress, signal }));
  const admin = undo.adopt(openDatabase(url, { connectionsMax: 1 }), (database) => closeDatabase(database));
  await prepareTemplate(admin, url);
  if (!quick) await fillLog(admin);
  const [{ server_version: postgres }] = await admin.$client`show server_version`;
  const generators = new LoadGenerators(directory, await findWrk());
  let databases = 0;
  const resources = undo.move();
  return {
    quick,
    repetitions,
    postgres: postgres.split(" ")[0],
    scaled: (full, tiny) => quick ? tiny : full,
    createDatabase: ({ migrated }) =>
      createDatabase(admin, url, `bench_${databases++}`, migrated ? TEMPLATE : "template1"),
    startServer: (database, args = []) => startServer(database, directory, args),
    startWorker: async (database) => {
      const child = await startProcess(
        "src/main.ts",
        ["worker"],
        /(Flushing) /,
        toEnvironment(database, directory),
      );
      return {
        hold: () => child.kill("SIGSTOP"),
        release: () => child.kill("SIGCONT"),
        [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
      };
    },
    startPeer: async (database, kind, options = {}) => {
      const order = { kind, token: TOKEN, databaseUrl: database.url, blockCount: options.blockCount ?? 0 };
      const args = [JSON.stringify(order)];
      return toServer(
        await startProcess("tests/bench/peer_server.ts", args, /serves at (\S+)/, { PATH: "/" }),
      );
    },
    settle: ({ database }) => checkpoint(database),
    runClosedLoad: (load) => generators.runClosed(load),
    startOpenLoad: (load) => generators.startOpen(load),
    listGenerators: () => generators.list(),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/**
 * Brings the write-ahead log to the size that it has in a server that has run for a while, whose files are renamed rather than
 * made: whoever came first would pay for those after it.
 */
async function fillLog(admin: Database): Promise<void> {
  for (let file = 0; file < LOG_FILES; file++) {
    await admin.$client`select pg_logical_emit_message(false, 'bench', repeat('x', ${LOG_FILE_BYTES}))`;
  }
  await checkpoint(admin);
}

async function checkpoint({ $client }: Database): Promise<void> {
  await $client.begin(async (tx) => {
    await tx`select set_config('statement_timeout', ${CHECKPOINT_LIMIT}, true)`;
    await tx`checkpoint`;
  });
}

async function prepareTemplate({ $client }: Database, url: string): Promise<void> {
  await $client.unsafe(`create database ${TEMPLATE}`);
  const template = openDatabase(atDatabase(url, TEMPLATE), { connectionsMax: 1 });
  try {
    await migrate(template);
  } finally {
    await closeDatabase(template);
  }
}

async function createDatabase(
  { $client }: Database,
  serverUrl: string,
  name: string,
  template: string,
): Promise<BenchDatabase> {
  await $client.unsafe(`create database ${name} template ${template}`);
  const url = atDatabase(serverUrl, name);
  const database = openDatabase(url);
  return {
    url,
    database,
    [Symbol.asyncDispose]: async () => {
      await closeDatabase(database);
      await $client.unsafe(`drop database ${name} with (force)`);
    },
  };
}

async function startServer(database: BenchDatabase, directory: string, args: string[]): Promise<BenchServer> {
  const environment = toEnvironment(database, directory);
  return toServer(
    await startProcess("src/main.ts", ["serve", ...args], /Snapmark serves at (\S+)/, environment),
  );
}

function toServer(child: Awaited<ReturnType<typeof startProcess>>): BenchServer {
  const { processId, found } = child;
  return { url: found, token: TOKEN, processId, [Symbol.asyncDispose]: () => child[Symbol.asyncDispose]() };
}

function toEnvironment({ url }: BenchDatabase, directory: string): Record<string, string> {
  return {
    SNAPMARK_HOST: "127.0.0.1",
    SNAPMARK_PORT: "0",
    SNAPMARK_DATA_DIR: directory,
    SNAPMARK_ADMIN_TOKEN: TOKEN,
    SNAPMARK_LOG: "error",
    SNAPMARK_DEVICE_BYTES: String(DEVICE_BYTES),
    SNAPMARK_CACHE_BYTES: String(CACHE_BYTES),
    DATABASE_URL: url,
  };
}
