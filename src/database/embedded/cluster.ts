/**
 * The bundled PostgreSQL's database cluster: creating it, and starting, adopting and stopping the server on it.
 *
 * Everything here may be cut short at any point by a SIGKILL of us, of PostgreSQL or of both, and the next start must
 * work:
 *
 * - A cluster being created has a temporary name until it is complete.
 * - A server that outlived us is adopted. It is a session of its own, so neither our death nor a Ctrl-C meant for us
 *   reaches it.
 * - A server that died leaves a `postmaster.pid`, a socket and the socket's lock behind. They are removed once their process
 *   is known not to be the server: PostgreSQL itself would take any living process of its user for one.
 * - When only PostgreSQL's main process was killed, its others notice and end shortly after. Until then they hold the
 *   shared memory and PostgreSQL refuses to start, which is why a start is tried again for a while.
 *
 * The caller holds the lock of the data directory throughout.
 */
import { basename, dirname, join } from "@std/path";
import { setTimeout as delay } from "node:timers/promises";
import { EmbeddedPostgresError } from "./embedded_error.ts";
import type { Home } from "./home.ts";
import {
  askServer,
  type EmbeddedConnection,
  isPostmaster,
  readPostmaster,
  SNAPMARK,
  toConnection,
} from "./postmaster.ts";
import { type ProgramOutcome, runProgram } from "./program.ts";
import { type Runtime, syncPath } from "./runtime.ts";
import { readMemoryBytes } from "./memory.ts";
import { SOCKET_PORT, toServerOptions } from "./settings.ts";

/** initdb writes 40 MB and takes 1 to 2 seconds on a desktop. */
const CREATE_LIMIT_MS = 120_000;

/** The longest start is crash recovery, which reads up to `max_wal_size` (4 GB) of log. */
const START_LIMIT_SECONDS = 300;

/** How long a running server may be silent before it is taken for broken: the gap between its process and its socket. */
const SILENCE_LIMIT_MS = 2_000;

/** How long the remaining processes of a killed server may take to notice. */
const REMAINS_LIMIT_MS = 15_000;

/**
 * A fast stop writes what is in memory to disk. An immediate one leaves that to the next start, so it is safe too, and
 * a supervisor's usual 10 seconds before SIGKILL suffice for the first.
 */
const STOP_MODES = [{ mode: "fast", limitSeconds: 8 }, { mode: "immediate", limitSeconds: 5 }];

/** What pg_ctl may take beyond the limit it was given before it is killed. */
const GRACE_MS = 2_000;

const POLL_INTERVAL_MS = 50;

/** `sun_path` without its final zero: unix(7), on macOS unix(4). */
const SOCKET_PATH_BYTES_MAX = Deno.build.os === "darwin" ? 103 : 107;

/** Not `TMPDIR`, which can be long itself and, when it is root's, closed to the server's user. */
const SHORT_DIRECTORY = "/tmp";
const SHORT_PREFIX = "snapmark-";

/** The log of one run is kept; more than this is not carried on into another one. */
const LOG_BYTES_MAX = 16 * 1024 * 1024;

/** What an error message shows of the log's end. */
const LOG_TAIL_BYTES = 4096;
const LOG_TAIL_LINES = 15;

/** Of what is made beside the database, and removed when it was cut short. */
export const CREATING_PREFIX = "postgres.incomplete-";

/** Creates the cluster unless there is one. `onCreate` is called before. Throws when there is one of another version. */
export async function createCluster(
  home: Home,
  runtime: Runtime,
  onCreate: () => void,
  signal?: AbortSignal,
): Promise<void> {
  const version = await readVersion(home);
  const expected = runtime.version.split(".", 1)[0];
  if (version === expected) return;
  if (version !== null) {
    throw new EmbeddedPostgresError(
      `Cannot start on ${home.dataDirectory}: its database is of PostgreSQL ${version}, the bundled one is ${expected}`,
    );
  }

  onCreate();
  await removeIncomplete(home);
  const incomplete = await Deno.makeTempDir({ dir: home.directory, prefix: CREATING_PREFIX });
  await giveToServer(home, incomplete);
  // The C locale is the same everywhere and never changes, unlike an operating system's, whose update can corrupt
  // indexes; the provider built into PostgreSQL adds Unicode's upper and lower case to it.
  const locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"];
  // Whoever can enter the socket directory is the server's user or root. The network is refused, should it ever be on.
  const access = [`--username=${SNAPMARK}`, "--auth-local=trust", "--auth-host=reject"];
  const { success, printed } = await runProgram(join(runtime.directory, "bin", "initdb"), {
    args: ["--data-checksums", "--no-instructions", ...locale, ...access, "--pgdata", incomplete],
    directory: home.directory,
    user: home.user,
    limitMs: CREATE_LIMIT_MS,
    signal,
  });
  if (!success) {
    await removeIncomplete(home);
    throw new EmbeddedPostgresError(`Cannot create a database in ${home.directory}`, lastLines(printed));
  }
  await Deno.rename(incomplete, home.database);
  await syncPath(home.directory);
}

/**
 * Adopts the server that runs on the cluster, waiting until it is ready. Returns null when none runs; whatever a dead
 * one left in the way is then gone, and so is a live one that does not answer.
 */
export async function adoptServer(
  home: Home,
  runtime: Runtime,
  signal?: AbortSignal,
): Promise<{ connection: EmbeddedConnection; processId: number } | null> {
  const silentUntil = performance.now() + SILENCE_LIMIT_MS;
  const notReadyUntil = performance.now() + START_LIMIT_SECONDS * 1000;
  while (true) {
    const postmaster = await readPostmaster(home);
    if (postmaster === null) return null;
    const { processId, port, socketDirectory } = postmaster;
    if (!await isPostmaster(home, postmaster)) {
      await removeIfThere(join(home.database, "postmaster.pid"));
      await removeShortDirectory(socketDirectory);
      return null;
    }

    let answer: Awaited<ReturnType<typeof askServer>> = "absent";
    if (socketDirectory !== null) {
      const connection = toConnection(socketDirectory, port);
      answer = await askServer(home, connection);
      if (answer === "ready") return { connection, processId };
    }
    // It is ours, yet its socket is gone (the data directory was moved, /tmp was cleaned) or dead. No client can be
    // using it.
    if (performance.now() > (answer === "not-ready" ? notReadyUntil : silentUntil)) {
      await stopServer(home, runtime);
      return null;
    }
    await delay(POLL_INTERVAL_MS, undefined, { signal });
  }
}

/**
 * Starts a server on the cluster and returns once it is ready. `formerDirectory` is where its socket was, for those who go on
 * looking for it there.
 */
export async function startServer(
  home: Home,
  runtime: Runtime,
  signal?: AbortSignal,
  formerDirectory?: string,
): Promise<EmbeddedConnection> {
  const socketDirectory = await createSocketDirectory(home, formerDirectory);
  try {
    await prepareLog(home);
    const remainsUntil = performance.now() + REMAINS_LIMIT_MS;
    while (true) {
      const logStart = (await Deno.stat(home.log)).size;
      const settings = toServerOptions(socketDirectory, await readMemoryBytes());
      const options = [`--log=${home.log}`, `--options=${settings}`];
      const outcome = await controlServer(home, runtime, "start", START_LIMIT_SECONDS, options, signal);
      if (outcome.success) return toConnection(socketDirectory, SOCKET_PORT);

      const log = await readLogEnd(home, logStart);
      if (!log.includes("pre-existing shared memory block") || performance.now() > remainsUntil) {
        throw new EmbeddedPostgresError(
          `Cannot start PostgreSQL in ${home.database}`,
          lastLines(`${outcome.printed}\n${log}`),
        );
      }
      await delay(POLL_INTERVAL_MS, undefined, { signal });
    }
  } catch (error) {
    await removeShortDirectory(socketDirectory);
    throw error;
  }
}

/** Stops the server that runs on the cluster, if one does. Throws when it runs on. */
export async function stopServer(home: Home, runtime: Runtime): Promise<void> {
  let printed = "";
  for (const { mode, limitSeconds } of STOP_MODES) {
    const postmaster = await readPostmaster(home);
    // pg_ctl would signal whatever process bears the number in the file.
    if (postmaster === null || !await isPostmaster(home, postmaster)) return;
    const outcome = await controlServer(home, runtime, "stop", limitSeconds, [`--mode=${mode}`]);
    if (outcome.success) return await removeShortDirectory(postmaster.socketDirectory);
    printed = outcome.printed;
  }
  throw new EmbeddedPostgresError(`Cannot stop PostgreSQL in ${home.database}`, printed);
}

function controlServer(
  home: Home,
  runtime: Runtime,
  command: "start" | "stop",
  limitSeconds: number,
  options: readonly string[],
  signal?: AbortSignal,
): Promise<ProgramOutcome> {
  return runProgram(join(runtime.directory, "bin", "pg_ctl"), {
    args: [
      command,
      "--silent",
      "--wait",
      `--timeout=${limitSeconds}`,
      `--pgdata=${home.database}`,
      ...options,
    ],
    directory: home.directory,
    user: home.user,
    limitMs: limitSeconds * 1000 + GRACE_MS,
    signal,
  });
}

/** Reads the major version the cluster was created by, or null when there is none. */
export async function readVersion(home: Home): Promise<string | null> {
  try {
    return (await Deno.readTextFile(join(home.database, "PG_VERSION"))).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Removes what a creation cut short left behind. */
async function removeIncomplete(home: Home): Promise<void> {
  for await (const entry of Deno.readDir(home.directory)) {
    if (entry.name.startsWith(CREATING_PREFIX)) await removeIfThere(join(home.directory, entry.name));
  }
}

/** Creates the directory for the socket, empty and open to the server's user alone. */
async function createSocketDirectory(home: Home, former?: string): Promise<string> {
  let directory = former ?? join(home.directory, "run");
  const path = new TextEncoder().encode(join(directory, `.s.PGSQL.${SOCKET_PORT}`));
  // postgres.js takes a comma or a colon for the end of the host.
  if (former === undefined && (path.length > SOCKET_PATH_BYTES_MAX || /[,:]/.test(directory))) {
    directory = await Deno.makeTempDir({ dir: SHORT_DIRECTORY, prefix: SHORT_PREFIX });
  } else {
    await removeIfThere(directory);
    await Deno.mkdir(directory, { mode: 0o700 });
  }
  await giveToServer(home, directory);
  return directory;
}

/** Removes a socket directory when it is one of those created for short names. */
async function removeShortDirectory(directory: string | null): Promise<void> {
  if (directory === null || dirname(directory) !== SHORT_DIRECTORY) return;
  if (basename(directory).startsWith(SHORT_PREFIX)) await removeIfThere(directory);
}

/** Creates the log for a server that may not create files here, and sets a long one aside. */
async function prepareLog(home: Home): Promise<void> {
  using file = await Deno.open(home.log, { append: true, create: true, mode: 0o600 });
  if ((await file.stat()).size > LOG_BYTES_MAX) {
    await Deno.copyFile(home.log, `${home.log}.1`);
    await file.truncate();
  }
  await giveToServer(home, home.log);
}

/** Reads the end of what was logged from a position on. */
async function readLogEnd(home: Home, start: number): Promise<string> {
  using file = await Deno.open(home.log);
  const { size } = await file.stat();
  await file.seek(Math.max(start, size - LOG_TAIL_BYTES), Deno.SeekMode.Start);
  const bytes = new Uint8Array(LOG_TAIL_BYTES);
  const count = await file.read(bytes) ?? 0;
  return new TextDecoder().decode(bytes.subarray(0, count));
}

function lastLines(text: string): string {
  return text.trim().split("\n").slice(-LOG_TAIL_LINES).join("\n");
}

async function giveToServer(home: Home, path: string): Promise<void> {
  if (home.user !== null) await Deno.chown(path, home.user.uid, home.user.gid);
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
