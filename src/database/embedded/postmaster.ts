/**
 * The PostgreSQL that runs on a database, if one does.
 *
 * PostgreSQL leaves `postmaster.pid` in its data directory while it runs, and after it was killed. By then the number
 * in the file may be anybody's, and a copied data directory carries the file of the original. So the file is only a
 * hint, and two questions decide. Asked over the socket, which data directory is yours? And asked of the system, does
 * the process stand in this directory? PostgreSQL's main process does, from its first moments to its last. Nothing is
 * signalled, adopted or declared dead on less.
 */
import { join } from "@std/path";
import postgres from "postgres";
import type { Home } from "./home.ts";
import { runProgram } from "./program.ts";

/** How a PostgreSQL client connects, in the words of postgres.js. */
export interface EmbeddedConnection {
  /** Absolute path of the directory the socket is in. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly database: string;
}

/** What `postmaster.pid` says, true or not. */
export interface Postmaster {
  readonly processId: number;
  /** Absolute path; `null` while the server has not opened its socket yet. */
  readonly socketDirectory: string | null;
  readonly port: number;
}

/** Superuser, and name of the database. */
export const SNAPMARK = "snapmark";

/** The database every cluster has, for when ours may be missing. */
const MAINTENANCE_DATABASE = "postgres";

/** A local server that accepts connections answers within milliseconds, unless it is stopped or starved. */
const CONNECT_LIMIT_SECONDS = 5;

/** The longest statement is CREATE DATABASE, which copies 7 MB. */
const STATEMENT_LIMIT_MS = 60_000;

/** The question to the system is answered from memory. */
const PROCESS_LIMIT_MS = 10_000;

/**
 * Whether process $1 stands in directory $2. Asked through a shell: Deno opens /proc only to programs that are allowed
 * everything, and macOS has none.
 */
const STANDS_IN_DIRECTORY = Deno.build.os === "linux"
  ? '[ "/proc/$1/cwd" -ef "$2" ]'
  : '/usr/sbin/lsof -a -p "$1" -d cwd -Fn | grep -qxF "n$2"';

/** PostgreSQL's `cannot_connect_now`: it is starting, recovering or shutting down. */
const CANNOT_CONNECT_NOW = "57P03";

/** What postgres.js and the system call it when there is no server behind the socket, or one that ends or hangs. */
const NOBODY_ANSWERS = new Set([
  "CONNECTION_CLOSED",
  "CONNECT_TIMEOUT",
  "ECONNREFUSED",
  "ECONNRESET",
  "ENOENT",
  "EPIPE",
]);

/** Reads `postmaster.pid`. Returns null when there is none, or it is not written yet. */
export async function readPostmaster(home: Home): Promise<Postmaster | null> {
  try {
    return parsePostmaster(await Deno.readTextFile(join(home.database, "postmaster.pid")));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Parses `postmaster.pid`. Source: PostgreSQL, `src/include/utils/pidfile.h`. */
export function parsePostmaster(text: string): Postmaster | null {
  const [processId, _dataDirectory, _startTime, port, socketDirectory] = text.split("\n");
  // The number is negative for a single-user session, which no client can use.
  if (!/^[1-9]\d*$/.test(processId)) return null;
  return { processId: Number(processId), port: Number(port), socketDirectory: socketDirectory || null };
}

/** Connection settings for a server that has opened its socket. */
export function toConnection(socketDirectory: string, port: number): EmbeddedConnection {
  return { host: socketDirectory, port, user: SNAPMARK, database: SNAPMARK };
}

/**
 * Asks the server on a socket which data directory it serves. Returns `ready` when it is this home's, `not-ready` when
 * it accepts no sessions yet or any more, `absent` when nobody answers or the answer is another directory.
 */
export async function askServer(
  home: Home,
  connection: EmbeddedConnection,
): Promise<"ready" | "not-ready" | "absent"> {
  await using sql = openSession(connection);
  try {
    const [row] = await sql.query<
      { directory: string }[]
    >`SELECT current_setting('data_directory') AS directory`;
    return row.directory === home.database ? "ready" : "absent";
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === CANNOT_CONNECT_NOW) return "not-ready";
    if (code !== undefined && NOBODY_ANSWERS.has(code)) return "absent";
    throw error;
  }
}

/** Creates our database unless it is there. It is missing after the first start, or after one cut short. */
export async function createDatabase(connection: EmbeddedConnection): Promise<void> {
  await using sql = openSession(connection);
  const [found] = await sql.query`SELECT FROM pg_database WHERE datname = ${SNAPMARK}`;
  if (found === undefined) await sql.query`CREATE DATABASE ${sql.query(SNAPMARK)}`;
}

/** Whether the process stands in this home's database directory, and so is its PostgreSQL and nobody else. */
export async function isPostmaster(home: Home, { processId }: Postmaster): Promise<boolean> {
  const args = ["-c", STANDS_IN_DIRECTORY, "sh", String(processId), home.database];
  const options = { args, directory: home.directory, user: home.user, limitMs: PROCESS_LIMIT_MS };
  const { success } = await runProgram("/bin/sh", options);
  return success;
}

/** One connection to the maintenance database, closed within the limit whatever state it is in. */
function openSession(connection: EmbeddedConnection): { query: postgres.Sql } & AsyncDisposable {
  const query = postgres({
    ...connection,
    database: MAINTENANCE_DATABASE,
    max: 1,
    connect_timeout: CONNECT_LIMIT_SECONDS,
    fetch_types: false,
    connection: { statement_timeout: STATEMENT_LIMIT_MS },
  });
  return { query, [Symbol.asyncDispose]: () => query.end({ timeout: CONNECT_LIMIT_SECONDS }) };
}
