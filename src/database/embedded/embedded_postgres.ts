/**
 * The bundled PostgreSQL: what Snapmark keeps its data in when `DATABASE_URL` is not set.
 *
 * It is a server of our own on a data directory, reached through a Unix socket and by nobody else. A start
 *
 * 1. takes the data directory's lock, or says who holds it,
 * 2. finds or chooses the home: where PostgreSQL lives, and as which user it runs (`home.ts`),
 * 3. places PostgreSQL's programs there, once per version (`runtime.ts`),
 * 4. creates the database cluster, once (`cluster.ts`),
 * 5. adopts the server that runs on it since a former start of ours was killed, or starts one,
 * 6. creates our database, once,
 * 7. has it kept from then on, if that was asked for (`keeper.ts`).
 *
 * Each step tells from the disk whether it is done, so a start that was cut short anywhere is simply repeated.
 *
 * ```
 * <data directory>/
 *   server.lock                   held while a server runs
 *   postgres-location             only if the home is elsewhere: says where
 * <home, normally the same>/
 *   postgres/                     PostgreSQL's own data directory
 *   postgres.log
 *   postgres-runtime-<version>/   bin, lib, share
 *   run/                          the socket, unless its path would be too long
 * ```
 */
import { join, resolve } from "@std/path";
import { adoptServer, createCluster, readVersion, startServer, stopServer } from "./cluster.ts";
import { EmbeddedPostgresError } from "./embedded_error.ts";
import { findHome, type Home, openHome } from "./home.ts";
import { Keeper } from "./keeper.ts";
import {
  askServer,
  createDatabase,
  type EmbeddedConnection,
  readPostmaster,
  toConnection,
} from "./postmaster.ts";
import { placeRuntime, removeOtherRuntimes, type Runtime } from "./runtime.ts";
import { lockDirectory } from "./server_lock.ts";

export type { EmbeddedConnection } from "./postmaster.ts";

/** How to reach a bundled PostgreSQL, in both ways a client may want it told. */
export interface EmbeddedAddress {
  readonly connection: EmbeddedConnection;
  /**
   * The same as libpq's URL, for psql and its like: `postgres://snapmark@%2Fsome%2Fdirectory:5432/snapmark`. postgres.js
   * does not decode the host of a URL, so it needs `connection`.
   */
  readonly url: string;
}

/** A bundled PostgreSQL this process started or adopted, and stops. */
export interface EmbeddedPostgres extends EmbeddedAddress, AsyncDisposable {
  /** Stops the server within 20 seconds and frees the data directory. Further calls return the first one's promise. */
  stop(): Promise<void>;
  /** Aborted, with the reason, when it has ended and cannot be kept; never when it is not kept. */
  readonly lost: AbortSignal;
}

/** What {@linkcode startEmbeddedPostgres} takes. */
export interface EmbeddedPostgresOptions {
  /** Created if missing. A relative path is resolved against the working directory. */
  readonly dataDir: string;
  /** Gives the start up. It has no effect on a server that is ready. */
  readonly signal?: AbortSignal;
  /** Whether it is started again when it ends, and not by us. */
  readonly keep?: boolean;
  /** Is told each step that takes a noticeable time, as a sentence without a point. */
  readonly onProgress?: (line: string) => void;
}

/**
 * Starts the bundled PostgreSQL on a data directory, or adopts the one that runs there. Throws when another server
 * uses the directory, {@linkcode EmbeddedPostgresError} when PostgreSQL cannot be run, and the signal's reason when it
 * is aborted; no PostgreSQL is left running then.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const undo = new AsyncDisposableStack();
  try {
    const { connection, lost } = await bringUp(options, undo);
    let stopped: Promise<void> | undefined;
    const stop = () => stopped ??= undo.disposeAsync();
    return { ...toAddress(connection), lost, stop, [Symbol.asyncDispose]: stop };
  } catch (error) {
    // What went wrong first tells more than what went wrong while tidying up.
    await undo.disposeAsync().catch(() => {});
    throw error;
  }
}

/**
 * Does something with a data directory's database while no server runs on it, and none can be started; whatever one had left to write
 * is written before. Throws when another server uses the directory, or there is no database in it.
 */
export async function whileStopped<T>(
  { dataDir, signal, onProgress = () => {} }: Omit<EmbeddedPostgresOptions, "keep">,
  act: (home: Home) => Promise<T>,
): Promise<T> {
  await using locks = new AsyncDisposableStack();
  const dataDirectory = await Deno.realPath(dataDir).catch((cause) => {
    throw new EmbeddedPostgresError(`Cannot find the data directory ${resolve(dataDir)}`, "", { cause });
  });
  const home = await lockHome(locks, dataDirectory);
  if (await readVersion(home) !== null) {
    const runtime = await placeRuntime(home.directory, () => {});
    try {
      await runServer(home, runtime, onProgress, signal);
    } finally {
      await stopServer(home, runtime);
    }
  }
  return await act(home);
}

/** Does something with a data directory in which a database may be put: it is made if need be, and no server uses it. */
export async function whileAbsent<T>(dataDir: string, act: (home: Home) => Promise<T>): Promise<T> {
  await using locks = new AsyncDisposableStack();
  return await act(await lockHome(locks, await createDataDirectory(dataDir)));
}

/** Locks a data directory, and the home of its database where that is elsewhere. */
async function lockHome(locks: AsyncDisposableStack, dataDirectory: string): Promise<Home> {
  const lock = await lockDirectory(dataDirectory);
  locks.defer(() => lock.close());
  const home = await openHome(dataDirectory);
  if (home.directory !== dataDirectory) {
    // A copy of the data directory names the same home.
    const homeLock = await lockDirectory(home.directory);
    locks.defer(() => homeLock.close());
  }
  return home;
}

/** Does the steps told at the head of this file. What is to be done to stop again goes on the stack `undo`. */
async function bringUp(
  options: EmbeddedPostgresOptions,
  undo: AsyncDisposableStack,
): Promise<{ connection: EmbeddedConnection; lost: AbortSignal }> {
  const { signal, onProgress = () => {} } = options;
  const dataDirectory = await createDataDirectory(options.dataDir);
  const home = await lockHome(undo, dataDirectory);
  if (home.directory !== dataDirectory) {
    onProgress(`Keeping the database in ${home.directory}: ${home.user?.name} cannot reach ${dataDirectory}`);
  }

  const runtime = await placeRuntime(
    home.directory,
    (version) => onProgress(`Copying PostgreSQL ${version} to ${home.directory}`),
  );
  undo.defer(() => stopServer(home, runtime));
  const connection = await runServer(home, runtime, onProgress, signal);
  await createDatabase(connection);
  signal?.throwIfAborted();
  if (!options.keep) return { connection, lost: new AbortController().signal };
  const keeper = new Keeper({
    socket: join(connection.host, `.s.PGSQL.${connection.port}`),
    revive: async (stopping) => {
      const revived = await runServer(home, runtime, onProgress, stopping, connection.host);
      if (revived.host === connection.host) return;
      throw new EmbeddedPostgresError(`Cannot reach PostgreSQL: its socket has moved to ${revived.host}`);
    },
    onProgress,
  });
  undo.defer(() => keeper.stop());
  return { connection, lost: keeper.lost };
}

/** Creates the data directory if it is missing, and returns its absolute path without symbolic links. */
async function createDataDirectory(dataDir: string): Promise<string> {
  try {
    await Deno.mkdir(dataDir, { recursive: true });
    return await Deno.realPath(dataDir);
  } catch (cause) {
    throw new EmbeddedPostgresError(`Cannot create the data directory ${resolve(dataDir)}`, String(cause), {
      cause,
    });
  }
}

/**
 * Finds the bundled PostgreSQL another process of the same user (or of root) runs on a data directory. Throws when
 * none does, or it is not ready.
 */
export async function findEmbeddedPostgres(dataDir: string): Promise<EmbeddedAddress> {
  const absent = (cause?: unknown) =>
    new EmbeddedPostgresError(
      `Cannot find a running PostgreSQL of ${resolve(dataDir)}: start the Snapmark server first`,
      "",
      { cause },
    );
  let dataDirectory;
  try {
    dataDirectory = await Deno.realPath(dataDir);
  } catch (cause) {
    throw absent(cause);
  }
  const home = await findHome(dataDirectory);
  const postmaster = await readPostmaster(home);
  if (postmaster === null || postmaster.socketDirectory === null) throw absent();
  const connection = toConnection(postmaster.socketDirectory, postmaster.port);
  if (await askServer(home, connection) !== "ready") throw absent();
  return toAddress(connection);
}

/** Brings the cluster and its server into being, whatever of them there is already. */
async function runServer(
  home: Home,
  runtime: Runtime,
  onProgress: (line: string) => void,
  signal: AbortSignal | undefined,
  formerDirectory?: string,
): Promise<EmbeddedConnection> {
  const user = home.user === null ? "" : ` as the user ${home.user.name}`;
  await createCluster(
    home,
    runtime,
    () => onProgress(`Creating a database in ${home.directory}${user}`),
    signal,
  );
  const adopted = await adoptServer(home, runtime, signal);
  if (adopted !== null) {
    onProgress(`Adopting the PostgreSQL that still runs on it (process ${adopted.processId})`);
    return adopted.connection;
  }
  await removeOtherRuntimes(home.directory, runtime);
  onProgress(`Starting PostgreSQL in ${home.directory}${user}`);
  return await startServer(home, runtime, signal, formerDirectory);
}

function toAddress(connection: EmbeddedConnection): EmbeddedAddress {
  const { host, port, user, database } = connection;
  return { connection, url: `postgres://${user}@${encodeURIComponent(host)}:${port}/${database}` };
}
